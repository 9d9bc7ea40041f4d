"""Straight-line code between named values, and how to cut it.

A program ``y = F(a, b)`` that is read again and again with the same a, and each time another b, is cut in two: what depends on a
alone runs once, the rest each time:

    kept = before(a),    y = after(kept, b)

Programs are fx graphs of functional operations, so that any part of one may be left out or run at another time.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

SHAPE, NARROW = "shape", "narrow"
"""What a node remembers: the shape that it was traced at, and whether it is a product of rounded factors."""

Key = Hashable
"""The name of a value: of a state or an input, a :class:`~ffebm_compiler.ir.Weight`, or a node's own."""


@dataclass(frozen=True)
class Code:
    """Code from named values to named values.

    Attributes:
        inputs: the names of what it reads, in the order of the placeholders.
        outputs: the names of what it gives, in the order of the output tuple.
        module: the graph, with the constants that it holds.
    """

    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]
    module: fx.GraphModule

    @cached_property
    def _run(self) -> Any:
        return self.module.forward  # past the hooks of modules, of which there are none

    def __call__(self, values: Mapping[Key, Any]) -> dict[Key, Any]:
        """The outputs, from values that hold all inputs and perhaps others."""
        return dict(zip(self.outputs, self._run(*[values[k] for k in self.inputs]), strict=True))

    @property
    def placeholders(self) -> dict[Key, fx.Node]:
        return dict(zip(self.inputs, (n for n in self.module.graph.nodes if n.op == "placeholder"), strict=True))

    @property
    def results(self) -> dict[Key, fx.Node]:
        (output,) = (n for n in self.module.graph.nodes if n.op == "output")
        found: tuple[fx.Node, ...] = output.args[0]
        return dict(zip(self.outputs, found, strict=True))


def only(code: Code, outputs: Iterable[Key]) -> Code:
    """The part of the code that these outputs need; it reads no more than that part does."""
    results = code.results
    return extracted(code, {n: k for k, n in code.placeholders.items()}, {k: results[k] for k in outputs})


def cut(code: Code, given: Collection[Key]) -> tuple[Code, Code]:
    """The code that ``given`` suffices for, and the rest, which reads what the first one keeps for it.

    Outputs that ``given`` suffices for are the first one's. What the rest reads of ``given`` itself, it reads by its own name.
    """
    names = {n: k for k, n in code.placeholders.items()}
    early = _determined(code.module.graph, {n for n, k in names.items() if k in given})
    first = {k: n for k, n in code.results.items() if n in early}
    later = {k: n for k, n in code.results.items() if n not in early}
    boundary = {n: names.get(n, n.name) for n in _needed(later.values(), stop=early) if n in early or n in names}
    kept = {k: n for n, k in boundary.items() if n not in names}
    before = extracted(code, {n: k for n, k in names.items() if k in given}, {**first, **kept})
    return before, extracted(code, boundary, later)


def extracted(code: Code, given: Mapping[fx.Node, Key], wanted: Mapping[Key, fx.Node]) -> Code:
    """The code that computes the wanted nodes once others are given, and nothing besides."""
    needed = _needed(wanted.values(), stop=given)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    read = [n for n in code.module.graph.nodes if n in needed and n in given]
    for i, node in enumerate(read):
        copies[node] = graph.placeholder(f"read_{i}")
        copies[node].meta = _kept(node)
    for node in code.module.graph.nodes:
        if node in needed and node not in given:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta = _kept(node)
    graph.output(tuple(copies[n] for n in wanted.values()))
    return Code(tuple(given[n] for n in read), tuple(wanted), fx.GraphModule(code.module, graph))


def _kept(node: fx.Node) -> dict[str, Any]:
    """What a node remembers when it is copied: little of its trace, which would hold more memory than the code."""
    value = node.meta.get("val")
    traced = {SHAPE: tuple(value.shape)} if isinstance(value, Tensor) else {}
    return {**traced, **{k: v for k, v in node.meta.items() if k in (SHAPE, NARROW)}}


def _determined(graph: fx.Graph, given: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes that these suffice for; constants need nothing, but are held where they are used."""
    found: set[fx.Node] = set(given)
    for node in graph.nodes:
        if node.op == "call_function" and all(n in found or n.op == "get_attr" for n in node.all_input_nodes):
            found.add(node)
    return found


def _needed(nodes: Iterable[fx.Node], stop: Collection[fx.Node]) -> set[fx.Node]:
    """These nodes and all that they are computed from, no further than ``stop``."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [] if node in stop else node.all_input_nodes
    return found


def as_code(function: Any, inputs: Iterable[Key], outputs: Iterable[Key]) -> Code:
    """The code of a traced module with one placeholder an input and a tuple of outputs."""
    assert isinstance(function, fx.GraphModule)
    whole = Code(tuple(inputs), tuple(outputs), function)
    for node in function.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, f"{node.target} writes to what it reads"
    return only(whole, whole.outputs)
