"""A function of tensors as one flat graph of functional operations, each with the user's name for where it comes from.

What a layer writes in place comes out as a further result, random numbers go in as inputs, and a vector-Jacobian
product is taken inside the function: one trace holds the forward operations and then those of the backward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx.traceback as provenance
from torch import Tensor, fx, nn
from torch._functorch.aot_autograd import aot_export_module  # else: torch.export.export(...).run_decompositions(table)

from ..ir import Origin
from ..torch_private import tree_leaves
from .decompositions import table
from .shapes import Space, symbolically

aten = torch.ops.aten
BACKWARD = "/backward"
MARK = "layer "
"""What a node's stack trace begins with where it is the user's label; torch writes its own where there is none."""


@dataclass(frozen=True)
class Flat:
    """A flat graph.

    Attributes:
        module: its graph reads placeholders and returns one tuple; ``meta["label"]`` of a node is the user's.
        inputs: the placeholders of what was given, in order; None where the graph has no use for one.
        random: those of the random numbers, in the order in which they are drawn.
        outputs: the results.
        written: by the index of an input that the function writes to, what it holds afterwards.
    """

    module: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    random: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    written: Mapping[int, fx.Node]


@dataclass
class Marks:
    """Notes which of the user's operations runs, forward and backward."""

    running: Origin | None = None
    _known: set[Any] = field(default_factory=set)

    def around(self, origin: Origin, call: Callable[[], Any]) -> Any:
        """Makes a call of the user's under its label."""
        self.running = origin
        _label(origin.label)
        result = call()
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._mark_backward(leaf.grad_fn, origin)
        _label("")
        self.running = None
        return result

    def _mark_backward(self, start: Any, origin: Origin) -> None:
        """Every step back that has come up since the last call is this call's."""
        waiting = [start]
        while waiting:
            step = waiting.pop()
            if step is None or step in self._known:
                continue
            self._known.add(step)
            step.register_prehook(lambda errors, label=origin.label: self._backward(origin, label))
            waiting.extend(following for following, _ in step.next_functions)

    def _backward(self, origin: Origin, label: str) -> None:
        self.running = origin
        _label(label + BACKWARD)


def label_of(stack_trace: str | None) -> str:
    """The user's label in a stack trace."""
    return (stack_trace or "").removeprefix(MARK) if (stack_trace or "").startswith(MARK) else ""


def _label(text: str) -> None:
    if provenance.has_preserved_node_meta():
        provenance.set_stack_trace([MARK + text])


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        _label("")
        return tuple(self.function(*inputs))


def trace(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Any], space: Space) -> Flat:
    """The flat graph of ``function(*inputs) -> outputs`` on fake tensors and sizes of a space."""
    with quietly(), symbolically(), provenance.preserve_node_meta():
        module, signature = aot_export_module(
            _Function(function), list(inputs), trace_joint=False, decompositions=dict(table())
        )
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    nodes = {n.name: n for n in graph.nodes}
    given = [n for n in graph.nodes if n.op == "placeholder"]
    index = {n.name: i for i, n in enumerate(given)}
    results = next(iter(reversed(graph.nodes)))
    returned = results.args[0]
    written = {index[name]: nodes[out] for out, name in signature.user_inputs_to_mutate.items()}
    outputs = tuple(returned[len(written) :])
    random = tuple(_random_inputs(graph))
    for node in all_nodes(module):
        node.meta["label"] = label_of(node.meta.pop("stack_trace", None))
    return Flat(module, tuple(given), random, outputs, written)


def all_nodes(module: fx.GraphModule) -> Iterator[fx.Node]:
    """Of the graph, and of those within it: the bodies of loops."""
    return (n for m in module.modules() if isinstance(m, fx.GraphModule) for n in m.graph.nodes)


def keep(flat: Flat, results: Sequence[fx.Node]) -> None:
    """Makes these the graph's results, and drops what they don't need."""
    graph = flat.module.graph
    output = next(iter(reversed(graph.nodes)))
    output.args = (tuple(results),)
    for node in list(graph.nodes):
        if node.target in (aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()


def _random_inputs(graph: fx.Graph) -> Iterator[fx.Node]:
    """Makes every draw an input, in the order of the draws."""
    last = next(n for n in reversed(graph.nodes) if n.op == "placeholder")
    for node in list(graph.nodes):
        if node.target is aten.rand.default:
            with graph.inserting_after(last):
                last = graph.placeholder(f"random_{node.name}")
            last.meta.update(node.meta)
            node.replace_all_uses_with(last)
            graph.erase_node(node)
            yield last


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings that torch's own tracing and export cause."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
