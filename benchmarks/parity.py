"""A graph in onnxruntime against the part in torch, on the same values, errors and random numbers.

The error of an array is the largest difference, relative to the largest magnitude among the arrays of its kind
(outputs, statistics, gradients of values, gradients of parameters): a gradient that is zero but for rounding has no
scale of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.graph_checks import run
from ffebm_compiler.ir import Program
from ffebm_compiler.onnx import FORWARD, VJP, PartGraph, Port
from ffebm_compiler.onnx.digital_part import Part, parts_of
from ffebm_compiler.onnx.shapes import symbols_of, within
from ffebm_compiler.onnx.sizes import size_of
from ffebm_compiler.torch_private import TorchDispatchMode, tree_leaves, tree_map_only
from ffebm_compiler.train.steps import leaves_of, tensors_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Parity:
    """The largest relative errors of one graph, by kind of result: outputs, statistics, values, parameters."""

    part: str
    kind: str
    errors: Mapping[str, float]

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=0.0)


def compare(
    graph: PartGraph,
    name: str,
    program: Program,
    network: nn.Module,
    values: Mapping[str, Any],
    generator: torch.Generator,
) -> Parity:
    """Runs a graph and its part, which leaves the model as it was.

    Args:
        name: of the part.
        values: of the program, at any batch size that the graph takes.
        generator: of errors and random numbers.
    """
    part = next(p for p in parts_of(program, network) if p.name == name)
    interface = graph.interface
    sizes = symbols_of(program, values)
    drawn = {p.name: torch.rand([size_of(s, sizes) for s in p.shape], generator=generator) for p in interface.random}
    own = {n: t for n, t in (*network.named_parameters(), *network.named_buffers()) if n in part.reads}
    tensors = {n: t.detach().clone() for n, t in own.items()}
    reference = _Reference(part, network, values, tensors, drawn)
    outputs = reference.run(interface.kind == VJP)
    errors = {p.value: _noise(outputs[p.value], generator) for p in interface.errors}
    given = {p.name: _array(_at(values, p.value), p) for p in interface.values}
    if interface.kind != FORWARD:
        given.update((p.name, _array(own[p.value], p)) for p in interface.tensors)
    given.update((n, t.numpy()) for n, t in drawn.items())
    given.update((p.name, errors[p.value].numpy()) for p in interface.errors)
    found = run(graph, given, own)
    exact = {
        "outputs": (interface.outputs, outputs),
        "statistics": (interface.statistics, tensors),
        **reference.gradients(interface.gradients, errors),
    }
    return Parity(part.name, interface.kind, {k: _error(p, found, e) for k, (p, e) in exact.items() if p})


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like.dtype)


def _at(values: Mapping[str, Any], name: str) -> Any:
    value, _, place = name.partition("[")
    return values[value] if not place else tree_leaves(values[value])[int(place[:-1])]


def _array(value: Any, port: Port) -> np.ndarray:
    found = value.detach().numpy() if isinstance(value, Tensor) else value
    return np.asarray(found, dtype=port.dtype)


class _Reference:
    """The part in torch, its tensors replaced by ones of our own."""

    def __init__(
        self,
        part: Part,
        network: nn.Module,
        values: Mapping[str, Any],
        tensors: dict[str, Tensor],
        drawn: Mapping[str, Tensor],
    ):
        self.part, self.network, self.tensors, self.drawn = part, network, tensors, drawn
        self.values = {n: _leaf(values[n]) for n in part.inputs}
        self.trained = {n for n, p in network.named_parameters() if p.requires_grad}
        self.outputs: dict[str, Tensor] = {}

    def run(self, differentiable: bool) -> dict[str, Tensor]:
        if differentiable:
            for name in self.trained & self.tensors.keys():
                self.tensors[name].requires_grad_()
        with torch.set_grad_enabled(differentiable), _Drawing(self.drawn):
            results = within(
                self.network,
                self.tensors,
                lambda: self.part.run(self.network, self.values, lambda origin, call: call()),
            )
        leaves = leaves_of({n: results[n] for n in self.part.outputs})
        self.outputs = {n: torch.as_tensor(v) for n, v in leaves if v is not None}
        return self.outputs

    def gradients(
        self, ports: Sequence[Port], errors: Mapping[str, Tensor]
    ) -> dict[str, tuple[list[Port], dict[str, Tensor]]]:
        if not ports:
            return {}
        leaves = {**tensors_of(self.values), **self.tensors}
        wanted = [leaves[p.value] for p in ports]
        found = torch.autograd.grad([self.outputs[n] for n in errors], wanted, list(errors.values()))
        exact = {p.value: g for p, g in zip(ports, found, strict=True)}
        of_values = [p for p in ports if p.value not in self.tensors]
        of_parameters = [p for p in ports if p.value in self.tensors]
        return {"values": (of_values, exact), "parameters": (of_parameters, exact)}


def _leaf(value: Any) -> Any:
    def leaf(v: Tensor) -> Tensor:
        return v.detach().clone().requires_grad_(v.is_floating_point())

    return tree_map_only(Tensor, leaf, value)


class _Drawing(TorchDispatchMode):
    """Random operations take the numbers that they are given, in order; one that the graph has no use for, zeros."""

    def __init__(self, drawn: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.drawn, self.calls = drawn, itertools.count()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        takes = _TAKES.get(function)
        if takes is None:
            return function(*args, **(kwargs or {}))
        return takes(self.drawn.get(f"random/{next(self.calls)}", torch.zeros(())), *args)


def _keep_(number: Tensor, x: Tensor, kept: float = 0.5, generator: Any = None) -> Tensor:
    """torch's dropout on a processor writes whether to keep, which has this probability, in place."""
    return x.copy_((number >= 1 - kept).to(x.dtype))


def _dropout(number: Tensor, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    mask = number >= p
    return x * mask / (1 - p), mask


_TAKES: Mapping[Any, Callable[..., Any]] = {
    aten.bernoulli_.float: _keep_,
    aten.native_dropout.default: _dropout,
    aten.bernoulli.p: lambda number, x, p, generator=None: (number >= 1 - p).to(x.dtype),
    aten.bernoulli.default: lambda number, x, generator=None: (number >= 1 - x).to(x.dtype),
    aten.exponential_.default: lambda number, x, rate=1.0, generator=None: x.copy_(-torch.log1p(-number) / rate),
    aten.rand_like.default: lambda number, x: number.to(x.dtype),
    aten.rand.default: lambda number, sizes: number,
}


def _error(ports: Sequence[Port], found: Mapping[str, np.ndarray], exact: Mapping[str, Tensor]) -> float:
    pairs = [(found[p.name], exact[p.value].detach().numpy()) for p in ports]
    for (a, b), port in zip(pairs, ports, strict=True):
        assert a.shape == b.shape, f"{port.name} has shape {a.shape}, not {b.shape}"
    scale = max((float(np.abs(b).max()) for _, b in pairs if b.size), default=0.0)
    largest = max((float(np.abs(a.astype(np.float64) - b).max()) for a, b in pairs if b.size), default=0.0)
    return largest / scale if scale > 0 else largest
