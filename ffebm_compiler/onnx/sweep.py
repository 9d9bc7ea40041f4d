"""One sweep of a block as a flat graph, the vector-Jacobian products of its feedback written out.

``s'_l = sigma_l(f_l(s'_<l, x) + sum_m (w_m / w_l) J_lm(s)^T s_m)``: the drive of new states, the feedback of old ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import SymInt, Tensor, fx

from ..ir import Origin, State, Term, Weight
from ..solve import BoundBlock
from ..solve.binding import States
from .shapes import Space, symbolically
from .trace import MARK, Marks, keep, trace


@dataclass(frozen=True)
class LayerWeight:
    """w_l of a state."""

    state: str


Read = str | Weight | LayerWeight
"""What a sweep reads besides the states: an input or a fixed term, by name; a weight; a layer weight."""


@dataclass(frozen=True)
class Sweep:
    """A traced sweep.

    Attributes:
        module: ``(*states, *reads, *constants) -> new states``.
        reads: what it needs of the block, in order.
        constants: tensors that the operations made on the way.
    """

    module: fx.GraphModule
    reads: tuple[Read, ...]
    constants: tuple[Tensor, ...]


def readable(bound: BoundBlock) -> dict[Read, Any]:
    """All that a sweep of a block may read: whatever is computed once for a whole relaxation."""
    found: dict[Read, Any] = {n: v for values in (bound.inputs, bound.fixed) for n, v in values.items()}
    found.update((Weight(p), t) for p, t in bound.weights.items())
    found.update((LayerWeight(n), w) for n, w in bound.layer_weights.items())
    return found


def trace_sweep(bound: BoundBlock, states: States, space: Space, marks: Marks) -> Sweep:
    """The sweep of a block with its fixed terms, on fake tensors of a space."""
    values = readable(bound)
    given = [n for n, v in values.items() if isinstance(v, (Tensor, SymInt))]

    def sweep(*flat: Any) -> Sequence[Tensor]:
        now = dict(zip(states, flat, strict=False))
        read = {**values, **dict(zip(given, flat[len(states) :], strict=True))}
        return list(_swept(_reading(bound, read), now, marks).values())

    with space.mode, symbolically():
        distinct = [v.clone() if isinstance(v, Tensor) else v for v in (*states.values(), *map(values.get, given))]
    flat = trace(sweep, distinct, space)
    keep(flat, flat.outputs)
    for node in flat.module.graph.nodes:  # for the trace that this one becomes a part of
        node.meta["stack_trace"] = MARK + node.meta["label"]
    return _without_unused(flat.module, tuple(given), len(states))


def _reading(bound: BoundBlock, values: Mapping[Read, Any]) -> BoundBlock:
    """The block with these values."""
    return replace(
        bound,
        inputs={n: values[n] for n in bound.inputs},
        fixed={n: values[n] for n in bound.fixed},
        weights={p: values[Weight(p)] for p in bound.weights},
        layer_weights={n: values[LayerWeight(n)] for n in bound.layer_weights},
    )


def with_fixed(bound: BoundBlock, marks: Marks) -> BoundBlock:
    """The block with everything computed that depends on no state, each operation under the user's name for it."""
    fixed: dict[str, Any] = {}
    varying = {s.name for s in bound.block.states}
    for term in (t for s in bound.block.states for t in s.drive.terms):
        if varying.isdisjoint(o for o in term.operands if isinstance(o, str)):
            evaluate_marked((term,), known := {**bound.inputs, **fixed}, bound.weights, marks)
            fixed[term.name] = known[term.name]
        else:
            varying.add(term.name)
    return replace(bound, fixed=fixed)


def _swept(bound: BoundBlock, states: States, marks: Marks) -> States:
    with torch.enable_grad():
        leaves = {n: s.detach().requires_grad_() for n, s in states.items()}
        drives = {s.name: marked_drive(bound, s, leaves, marks) for s in bound.block.states}
        feedback: States = marks.around(relaxation(bound), partial(bound.feedback, leaves, drives))
    new: States = {}
    for state in bound.block.states:
        new[state.name] = marked_state(bound, state, new, marks, feedback.get(state.name))
    return new


def relaxation(bound: BoundBlock) -> Origin:
    """What is called after the block itself, since no layer of the user's does it."""
    return Origin(bound.block.name, "", "relaxation")


def marked_state(
    bound: BoundBlock, state: State, earlier: States, marks: Marks, feedback: Tensor | None = None
) -> Tensor:
    """``sigma(f + feedback)`` of one state, each operation under the user's name for it."""
    f = marked_drive(bound, state, earlier, marks)
    a = f if feedback is None else marks.around(relaxation(bound), partial(torch.add, f, feedback))
    found: Tensor = marks.around(state.origin, partial(state.potential.activation, a))
    return found


def marked_drive(bound: BoundBlock, state: State, states: States, marks: Marks) -> Tensor:
    """f of one state, each operation under the user's name for it."""
    known = {**bound.fixed, **bound.inputs, **states}
    evaluate_marked(state.drive.terms, known, bound.weights, marks)
    f: Tensor = known[state.drive.output]
    return f


def evaluate_marked(terms: Sequence[Term], known: dict[str, Any], weights: Mapping[str, Tensor], marks: Marks) -> None:
    """Adds the values of terms that are not known yet."""
    for term in terms:
        if term.name not in known:
            known[term.name] = marks.around(term.origin, partial(term.evaluate, known, weights))


def _without_unused(module: fx.GraphModule, given: tuple[Read, ...], states: int) -> Sweep:
    """Constants become inputs, and inputs that nothing reads are dropped."""
    graph = module.graph
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    reads = []
    for node, read in zip(placeholders[states:], given, strict=True):
        if node.users:
            reads.append(read)
        else:
            graph.erase_node(node)
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    constants = []
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        constants.append(getattr(module, str(node.target)))
        with graph.inserting_after(last):
            last = graph.placeholder(f"constant_{len(constants)}")
        last.meta.update(node.meta)
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    module.recompile()
    return Sweep(module, tuple(reads), tuple(constants))
