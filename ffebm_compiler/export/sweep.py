"""One sweep of a block as a flat graph: ``s' = sweep(s, reads)``, the feedback's vector-Jacobian products written out.

    a_l = f_l(s'_<l, x) + sum_m (w_m / w_l) J_lm(s)^T s_m,     s'_l = sigma_l(a_l)

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import SymInt, Tensor, fx

from ..ir import Coupling, State, Weight
from ..solve import BoundBlock
from ..solve.binding import States
from .shapes import Space
from .trace import Marks, keep, trace

Read = str | Weight
"""What a sweep reads besides the states: an input or a term that depends on no state, by name; a weight."""


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
    return {**bound.inputs, **bound.fixed, **{Weight(p): t for p, t in bound.weights.items()}}


def trace_sweep(bound: BoundBlock, states: States, space: Space) -> Sweep:
    """The sweep of a detached block, on fake tensors of a space."""
    values = readable(bound)
    given = [n for n, v in values.items() if isinstance(v, (Tensor, SymInt))]
    marks = Marks()

    def sweep(*flat: Any) -> Sequence[Tensor]:
        now = dict(zip(states, flat, strict=False))
        read = {**values, **dict(zip(given, flat[len(states) :], strict=True))}
        return list(_swept(_reading(bound, read), now, marks).values())

    with space.mode:
        distinct = [v.clone() if isinstance(v, Tensor) else v for v in (*states.values(), *map(values.get, given))]
    flat = trace(sweep, distinct, space)
    keep(flat, flat.outputs)
    return _without_unused(flat.module, tuple(given), len(states))


def _reading(bound: BoundBlock, values: Mapping[Read, Any]) -> BoundBlock:
    """The block with these values."""
    return replace(
        bound,
        inputs={n: values[n] for n in bound.inputs},
        fixed={n: values[n] for n in bound.fixed},
        weights={p: values[Weight(p)] for p in bound.weights},
    )


def _swept(bound: BoundBlock, states: States, marks: Marks) -> States:
    with torch.enable_grad():
        leaves = {n: s.detach().requires_grad_() for n, s in states.items()}
        feedback = bound.feedback(leaves, {s.name: marked_drive(bound, s, leaves, marks) for s in bound.block.states})
    new: States = {}
    for state in bound.block.states:
        new[state.name] = marked_state(bound, state, new, marks, feedback.get(state.name))
    return new


def marked_state(
    bound: BoundBlock, state: State, earlier: States, marks: Marks, feedback: Tensor | None = None
) -> Tensor:
    """``sigma(f + feedback)`` of one state, each operation under the user's name for it."""
    f = marked_drive(bound, state, earlier, marks)
    activation = state.potential.activation
    found: Tensor = marks.around(state.origin, lambda: activation(f if feedback is None else f + feedback))
    return found


def marked_drive(bound: BoundBlock, state: State, states: States, marks: Marks) -> Tensor:
    """f of one state, each operation under the user's name for it."""
    known = {**bound.fixed, **bound.inputs, **states}
    evaluate_marked(state.drive, known, bound.weights, marks)
    f: Tensor = known[state.drive.output]
    return f


def evaluate_marked(coupling: Coupling, known: dict[str, Any], weights: Mapping[str, Tensor], marks: Marks) -> None:
    """Adds the terms of a coupling that are not known yet."""
    for term in coupling.terms:
        if term.name not in known:
            known[term.name] = marks.around(term.origin, lambda term=term: term.evaluate(known, weights))


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
