"""The partition as a graph: every operation of the user's model a node, every value it passes on an edge.

Attributes are strings, numbers and flags only, and one that does not apply is absent, so that GraphML and
node-link JSON give the graph back exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx as nx
from torch import Tensor, nn

from ..ir import Origin, Program, Ref
from .operations import UserOperation, operations, parameters_behind, tensor_at

MODEL = "(model)"
"""The ``layer`` of a function that the model's own ``forward`` calls."""


def partition_graph(program: Program, network: nn.Module) -> nx.DiGraph:
    """The graph of a compiled program, in order of execution.

    Nodes are named by the user's label of the operation and carry ``domain`` (``"digital"`` or ``"analog"``),
    ``block``, ``role`` (``"input"``, ``"state"``, ``"coupling"``, ``"feedforward"``, ``"output"``), ``operation``,
    ``layer``, ``kind``, ``weighted``, ``parameters`` (how many), and where they apply ``potential``, ``weights`` (names
    and shapes), ``norm``, ``reason`` (why it is digital) and ``location`` in the user's code. Edges follow the data;
    ``feedback`` is True where, inside a block, a state feels what reads it.
    """
    graph = nx.DiGraph(model=type(network).__name__)
    ids: dict[str, str] = {}
    for name in program.inputs:
        ids[name] = _add(graph, program.origins[name].label, _end(program.origins[name], "input"))
    listed = operations(program, network)
    for op in listed:
        ids[op.key] = _add(graph, op.origin.label, _attributes(op, network), op.block)
    for op in listed:
        for read, feedback in op.reads.items():
            graph.add_edge(ids[read], ids[op.key], feedback=feedback)
    _add_output(graph, program, ids)
    return graph


def _add(graph: nx.DiGraph, label: str, attributes: dict[str, Any], block: str = "") -> str:
    """Adds a node under the user's name for it; a copy of an operation that two blocks hold says in which it is."""
    name = printable(label)
    if name in graph and block:
        name = f"{name} [{block}]"
    unique, count = name, 1
    while unique in graph:
        count += 1
        unique = f"{name} ({count})"
    graph.add_node(unique, **{k: printable(v) if isinstance(v, str) else v for k, v in attributes.items()})
    return unique


def printable(text: str) -> str:
    """The text with control characters spelled out: XML has no way to write them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _attributes(op: UserOperation, network: nn.Module) -> dict[str, Any]:
    behind = {id(p): p for path in op.tensors for p in parameters_behind(network, path)}
    optional = {
        "potential": op.potential,
        "weights": "; ".join(_weights(op, network)),
        "norm": "held" if op.held_norm else None,
        "reason": op.reason,
        "location": op.origin.location,
    }
    return {
        "domain": "analog" if op.analog else "digital",
        "block": op.block,
        "role": op.role,
        "operation": op.operation,
        "layer": op.origin.layer or MODEL,
        "kind": op.origin.kind,
        "weighted": op.weighted,
        "parameters": sum(p.numel() for p in behind.values()),
        **{k: v for k, v in optional.items() if v},
    }


def _weights(op: UserOperation, network: nn.Module) -> Iterator[str]:
    for path in op.tensors:
        value = tensor_at(network, path)
        if isinstance(value, Tensor):
            yield f"{path} {'×'.join(map(str, value.shape)) or 'scalar'}"


def _end(origin: Origin | None, role: str) -> dict[str, Any]:
    """An input or the output of the model."""
    return {
        "domain": "digital", "block": role, "role": role, "operation": role, "layer": MODEL,
        "kind": origin.kind if origin else role, "weighted": False, "parameters": 0,
    }  # fmt: skip


def _add_output(graph: nx.DiGraph, program: Program, ids: dict[str, str]) -> None:
    output = _add(graph, "output", _end(None, "output"))
    for name in _leaves(program.output):
        graph.add_edge(ids[name], output, feedback=False)


def _leaves(value: Any) -> Iterator[str]:
    """The names of the values that the model returns, through any nest of containers."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, dict):
        yield from (name for v in value.values() for name in _leaves(v))
    elif isinstance(value, slice):
        yield from _leaves((value.start, value.stop, value.step))
    elif isinstance(value, (tuple, list)):
        yield from (name for v in value for name in _leaves(v))
