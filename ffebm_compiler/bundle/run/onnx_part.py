"""A digital part as a module that runs ONNX graphs instead of PyTorch.

evaluation   y     = F(x)                     its weights are initializers of the session
training     y, b' = F(x, theta, b, r)        weights and random numbers r are inputs; running statistics b move to b'
vjp          dL/dx, dL/dtheta                 from the same inputs and dL/dy
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, Problem
from ...onnx import FORWARD, TRAINING, VJP, Interface, Port
from ...onnx.session import OnnxGraph, Session, port_problems
from ...onnx.sizes import sizes_of
from ...solve.fingerprint import fingerprint
from ...train import attribute
from ...train.steps import leaves_of
from ..format.contents import PART_MODULE
from .random_numbers import RandomNumbers


@dataclass(frozen=True)
class PartSource:
    """What a digital part is made of; copies of a model share it.

    Attributes:
        name: ``"digital1"``.
        layers: the user's layers in it, for errors.
        inputs, outputs: names of the values that it reads and gives, by mode (``training``).
        labels: the user's names of values.
        graphs: by kind.
        missing: why a kind has no graph.
        wants: values and weights that the vjp graph is asked for.
    """

    name: str
    layers: str
    inputs: Mapping[bool, tuple[str, ...]]
    outputs: Mapping[bool, tuple[str, ...]]
    labels: Mapping[str, str]
    graphs: Mapping[str, OnnxGraph]
    missing: Mapping[str, str]
    wants: frozenset[str]

    def __deepcopy__(self, memo: dict[int, Any]) -> PartSource:
        return self

    @property
    def has_gradients(self) -> bool:
        """Whether a gradient can flow through the part; one that only counts has no vjp graph."""
        return VJP in self.graphs or VJP in self.missing

    def reads(self, name: str) -> bool:
        """Whether that is a value that the part reads, or a leaf of one, rather than a weight."""
        return name.partition("[")[0] in self.inputs[True]

    def graph(self, kind: str) -> OnnxGraph:
        if kind in self.graphs:
            return self.graphs[kind]
        why = self.missing.get(kind, f"the bundle has no {kind} graph of it")
        remedy = "Keep the part's operation out of the model, or run the converted model itself, which needs no ONNX."
        raise InputError.at(f"digital part {self.name} ({self.layers})", why, remedy)


@dataclass(frozen=True)
class Pass:
    """One pass of a part in training mode.

    Attributes:
        given: what its graph was given, by port: values, weights, buffers as they were before it, random numbers.
        outputs: by the values' names; of a nested one each leaf, ``name[0]``.
    """

    given: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True)
class PartGradients:
    """The loss's gradient in the values that a part reads, by name, and in its weights, by path."""

    values: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)


class _Sessions(dict[str, tuple[Any, Session]]):
    """Sessions by kind, with the fingerprint of the weights that they hold; a copy of a model makes its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Sessions:
        return _Sessions()

    def __reduce__(self) -> tuple[type[_Sessions], tuple[()]]:
        return _Sessions, ()


class OnnxPart(nn.Module):
    """A digital part of a loaded bundle; it reads its weights from its network, by the user's paths."""

    def __init__(self, source: PartSource, network: nn.Module, random: RandomNumbers):
        super().__init__()
        self.source = source
        self.random = random
        self._home = (network,)  # in a tuple: a module would register it, and contain itself
        self._sessions = _Sessions()

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """The outputs in order; in training mode the running statistics move."""
        found = self.run_training(values).outputs if self.training else self.evaluate(values)
        return tuple(grouped(self.source.outputs[self.training], found).values())

    def evaluate(self, values: Sequence[Any]) -> dict[str, Any]:
        """The outputs in evaluation mode, by name."""
        graph = self.source.graph(FORWARD)
        given = self._values(graph.interface, self.source.inputs[False], values)
        found = self._evaluation_session(graph)(given)
        return {p.value: found[p.name] for p in graph.interface.outputs}

    def _evaluation_session(self, graph: OnnxGraph) -> Session:
        """The session of the present weights: one that holds others is made again."""
        weights = {p.name: self.tensor(p) for p in graph.interface.tensors}
        values = fingerprint(weights.values())
        held, session = self._sessions.get(FORWARD, (None, None))
        if session is None or held != values:
            session = graph.session(weights, _names(graph.interface.outputs))
            self._sessions[FORWARD] = values, session
        return session

    def run_training(self, values: Sequence[Any]) -> Pass:
        """The outputs in training mode, and what their vector-Jacobian product needs; the running statistics move."""
        graph = self.source.graph(TRAINING)
        ports = graph.interface
        given = self._values(ports, self.source.inputs[True], values)
        given |= {p.name: self.tensor(p) for p in ports.parameters}
        given |= {p.name: self.tensor(p).clone() for p in ports.buffers}
        given |= self.random.draw(ports.random, sizes_of(ports.values, given), self._where)
        found = self._session(graph, _names((*ports.outputs, *ports.statistics)))(given)
        self._require_finite(ports.statistics, given, found)
        with torch.no_grad():
            for p in ports.statistics:
                attribute(self._home[0], p.value).copy_(torch.as_tensor(found[p.name]))
        return Pass(given, {p.value: found[p.name] for p in ports.outputs})

    def _require_finite(self, moved: Sequence[Port], given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """PyTorch refuses to take the variance of one value, where a graph gives what is no number."""
        lost = [p.value for p in moved if bool(torch.as_tensor(found[p.name]).isnan().any())]
        if lost and all(bool(torch.isfinite(torch.as_tensor(v)).all()) for v in given.values()):
            what = f"its running statistics would no longer be numbers: {', '.join(lost[:6])}"
            remedy = (
                "A batch norm in training needs several values of each channel: give batches of two samples or more."
            )
            raise InputError.at(f"digital part {self._where}", what, remedy)

    def vjp(self, ran: Pass, errors: Mapping[str, Tensor]) -> PartGradients:
        """The loss's gradient in values and weights; empty where no error has arrived."""
        if not self.source.has_gradients:
            return PartGradients()
        graph = self.source.graph(VJP)
        ports = graph.interface
        wanted = [p for p in ports.gradients if p.value in self.source.wants]
        if not wanted or not any(p.value in errors for p in ports.errors):
            return PartGradients()
        arrived = {
            p.name: errors[p.value] if p.value in errors else torch.zeros_like(ran.outputs[p.value])
            for p in ports.errors
        }
        found = self._session(graph, _names(wanted))({**ran.given, **arrived})
        values = {p.value: found[p.name] for p in wanted if self.source.reads(p.value)}
        return PartGradients(values, {p.value: found[p.name] for p in wanted if p.value not in values})

    def _session(self, graph: OnnxGraph, results: Collection[str]) -> Session:
        kind = graph.interface.kind
        if kind not in self._sessions:
            self._sessions[kind] = None, graph.session({}, results)
        return self._sessions[kind][1]

    def _values(self, ports: Interface, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
        leaves = dict(leaves_of(dict(zip(names, values, strict=True))))
        given = {p.name: leaves.get(p.value) for p in ports.values}
        problems = port_problems(ports.values, given, self.source.labels)
        if problems:
            where = f"digital part {self._where}, "
            raise InputError(Problem(where + p.where, p.what, p.remedy) for p in problems)
        return given

    def tensor(self, port: Port) -> Tensor:
        """The present value of a weight or buffer."""
        value = attribute(self._home[0], port.value)
        assert isinstance(value, Tensor), port.value
        return value

    @property
    def _where(self) -> str:
        return f"{self.source.name} ({self.source.layers})"

    def extra_repr(self) -> str:
        return f"{self.source.name}: {self.source.layers}"


def part_of(network: nn.Module, name: str) -> OnnxPart:
    """A network's part of that name."""
    part = network.get_submodule(PART_MODULE.format(name=name))
    assert isinstance(part, OnnxPart), name
    return part


def grouped(names: Sequence[str], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The values of those names, nested ones as the tuples of their leaves."""
    return {n: leaves[n] if n in leaves else _together(n, leaves) for n in names}


def _together(name: str, leaves: Mapping[str, Any]) -> tuple[Any, ...]:
    places = [int(k[len(name) + 1 : -1]) for k in leaves if k.startswith(f"{name}[") and k.endswith("]")]
    return tuple(leaves.get(f"{name}[{i}]") for i in range(max(places, default=-1) + 1))


def _names(ports: Sequence[Port]) -> frozenset[str]:
    return frozenset(p.name for p in ports)
