"""What an ONNX graph of a digital part takes and gives: the contract between export, bundle and runtime.

A digital part ``y = F(x; theta)`` with buffers b (running statistics) and random numbers r has three graphs:

    forward    (x; theta, b)              -> y                       evaluation; theta and b are initializers
    training   (x, theta, b, r)           -> y, b'                   b' the buffers after the step
    vjp        (x, theta, b, r, dL/dy)    -> dL/dx, dL/dtheta        the forward pass recomputed inside
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from onnx import ModelProto

FORWARD, TRAINING, VJP = "forward", "training", "vjp"
KINDS = {False: (FORWARD,), True: (TRAINING, VJP)}
"""The graphs that the digital parts of each mode's program have, by whether it is that of training."""

Dimension = int | str
"""A size, or the name of one that varies: ``"batch"``."""


@dataclass(frozen=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: in the ONNX graph; it shows the user's name of the value or tensor.
        value: what it carries: the name of a value of the program, or the path of a tensor of the model.
        dtype: as numpy writes it: ``"float32"``.
        shape: sizes, those that vary by name.
    """

    name: str
    value: str
    dtype: str
    shape: tuple[Dimension, ...]


def port_of(name: str, value: str, dtype: torch.dtype, sizes: Iterable[Any]) -> Port:
    """The port of a tensor of that type, whose sizes are numbers or expressions in those that vary."""
    shape = tuple(s if isinstance(s, int) else str(s) for s in sizes)
    return Port(name, value, str(dtype).removeprefix("torch."), shape)


@dataclass(frozen=True)
class Interface:
    """The ports of one graph; those of a kind that it does not have are empty.

    Attributes:
        kind: ``"forward"``, ``"training"`` or ``"vjp"``.
        values: inputs: the values that the part reads, in its order.
        parameters: the trained tensors that it reads, by path: initializers of ``forward``, inputs of the others.
        buffers: the other tensors of the model that it reads, likewise.
        random: inputs: uniform numbers in [0, 1), one draw for the training and the vjp graph of a step.
        errors: inputs of ``vjp``: the loss's gradient in each output that can have one.
        outputs: the values that the part gives, in its order.
        statistics: outputs of ``training``: buffers after the step, by path.
        gradients: outputs of ``vjp``: the loss's gradient in values (by name) and parameters (by path).
    """

    kind: str
    values: tuple[Port, ...] = ()
    parameters: tuple[Port, ...] = ()
    buffers: tuple[Port, ...] = ()
    random: tuple[Port, ...] = ()
    errors: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    statistics: tuple[Port, ...] = ()
    gradients: tuple[Port, ...] = ()

    @property
    def tensors(self) -> tuple[Port, ...]:
        """The tensors of the model that the graph reads."""
        return (*self.parameters, *self.buffers)

    @property
    def initializers(self) -> tuple[Port, ...]:
        """Those that the graph holds."""
        return self.tensors if self.kind == FORWARD else ()

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What a caller must give, in the graph's order."""
        tensors = () if self.kind == FORWARD else self.tensors
        return (*self.values, *tensors, *self.random, *self.errors)

    @property
    def results(self) -> tuple[Port, ...]:
        """What a call returns, in the graph's order."""
        return (*self.outputs, *self.statistics, *self.gradients)


@dataclass(frozen=True)
class PartGraph:
    """A graph and its ports; the initializers of a ``forward`` graph carry no data of their own."""

    interface: Interface
    model: ModelProto


@dataclass(frozen=True)
class Unexportable:
    """A graph that ONNX can't express.

    Attributes:
        part, kind: which.
        operation: the user's name of the operation that stands in the way, ``layer3 (MyFunction)``.
        reason: why, in one sentence.
    """

    part: str
    kind: str
    operation: str
    reason: str


@dataclass(frozen=True)
class ExportedPart:
    """A digital part as ONNX: by kind its graph, or why there is none."""

    name: str
    graphs: Mapping[str, PartGraph]
    refused: tuple[Unexportable, ...] = ()

    def __iter__(self) -> Iterator[PartGraph]:
        return iter(self.graphs.values())


WEIGHTS = "weights"
"""The part that computes weights from others (weight_norm, spectral_norm): its outputs are paths of weights."""
