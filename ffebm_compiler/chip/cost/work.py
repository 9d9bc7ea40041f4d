"""What a program does on one sample, as plain data: what an estimate multiplies its constants with.

multiply-accumulates of a layer = groups * rows * columns * positions * filled
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """Values that one sample has at one place.

    Attributes:
        label: the user's name.
        size: how many.
        activity: rms over the largest magnitude; None where it was not measured.
        error: an input whose error current is read, because something before it learns.
        layers: of a state, the labels of the layers in its drive.
        read: of a state, whether another state of the block reads it.
    """

    label: str
    size: int
    activity: float | None = None
    error: bool = False
    layers: tuple[str, ...] = ()
    read: bool = False


@dataclass(frozen=True)
class Layer:
    """One weighted layer as matrices.

    Attributes:
        label: the user's name.
        groups, rows, columns: that many matrices of this shape.
        positions: uses of the matrices in one pass.
        filled: part of the products whose input is a value; the rest are zeros that a transposed convolution inserts.
        feedback: whether it reads a state, so that feedback passes through it.
        source, target: activity of what drives its rows, and of the state that drives its columns in the feedback.
        magnitude: mean magnitude of a weight over the largest; None where it was not measured.
    """

    label: str
    groups: int
    rows: int
    columns: int
    positions: int = 1
    filled: float = 1.0
    feedback: bool = False
    source: float | None = None
    target: float | None = None
    magnitude: float | None = None

    @property
    def weights(self) -> int:
        return self.groups * self.rows * self.columns

    @property
    def macs(self) -> int:
        return round(self.weights * self.positions * self.filled)


@dataclass(frozen=True)
class AnalogPart:
    """An energy-based block on one sample.

    Attributes:
        name: of the block.
        layers, states, inputs, outputs: what it is made of.
        sweeps, residual: how it relaxed.
    """

    name: str
    layers: tuple[Layer, ...]
    states: tuple[Signal, ...]
    inputs: tuple[Signal, ...]
    outputs: tuple[Signal, ...]
    sweeps: int = 1
    residual: float = 0.0

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def sweeps_to(self, tolerance: float) -> float:
        """Sweeps to this residual, had it fallen by the same factor in each; at least one. All where it never fell."""
        if self.residual <= 0:
            return 1.0
        if not self.residual < 1:
            return float(self.sweeps)
        return max(1.0, self.sweeps * math.log(tolerance) / math.log(self.residual))


@dataclass(frozen=True)
class DigitalPart:
    """A digital part on one sample, forward.

    Attributes:
        name: of the block.
        macs: multiply-accumulates of matrix products and convolutions.
        operations: everything else, an operation an output value.
        values: that operations read and write.
        parameters: that learn.
    """

    name: str
    macs: int = 0
    operations: int = 0
    values: int = 0
    parameters: int = 0


@dataclass(frozen=True)
class Work:
    """What a program does on one sample, part by part in order of execution."""

    parts: tuple[AnalogPart | DigitalPart, ...]

    @property
    def analog(self) -> tuple[AnalogPart, ...]:
        return tuple(p for p in self.parts if isinstance(p, AnalogPart))

    @property
    def digital(self) -> tuple[DigitalPart, ...]:
        return tuple(p for p in self.parts if isinstance(p, DigitalPart))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass."""
        return sum(p.macs for p in self.parts)
