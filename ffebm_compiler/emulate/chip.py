"""One emulated chip: the devices of every layer, the mismatch of every neuron, the calibrated ranges.

What differs from device to device follows from ``seed`` alone; what differs from read to read comes from the generator
``reads``. Writing returns nothing and changes the chip: a chip has a history, as a real one has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..hardware import Hardware, stream
from ..hardware.crossbar import Crossbar, program
from ..hardware.mapping import matrix_of, weight_of
from ..ir import EnergyBlock, Operation, Term, Weight
from .array import ArrayWeights
from .converters import Range, Saturation
from .neurons import Amplifier, Neurons
from .reading import Sample
from .transform import Parts

MAPPED_NAMES = ("linear", "matmul", *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)))
"""The operations whose weights are devices."""


@dataclass
class Devices:
    """The devices of one weight, and what the controller believes to have written.

    Attributes:
        operation: what the weight is used for; None for a bias, a row of devices with an amplitude of its own.
        crossbar: the devices.
        back: those of the feedback; the same object where the array is bidirectional.
        written: the weight as last written, in the model's shape; what an update has not reached yet is the difference to it.
    """

    operation: Operation | None
    crossbar: Crossbar
    back: Crossbar
    written: Tensor


@dataclass
class Chip:
    """An emulated chip.

    Attributes:
        hardware: what it is made of.
        seed: of everything that is fixed for a chip.
        reads: the generator of what changes from read to read; on the CPU.
        devices: by the path of a weight.
        ranges: calibrated ranges, by name of a value.
        saturation: counts of each converter, by its name.
        writes: how many times devices have been written to.
    """

    hardware: Hardware
    seed: int
    reads: torch.Generator
    devices: dict[str, Devices] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    saturation: dict[str, Saturation] = field(default_factory=dict)
    writes: int = 0
    cache: dict[object, object] = field(default_factory=dict, repr=False)

    # --- devices --------------------------------------------------------------------------------------

    def hold(self, block: EnergyBlock, weights: Mapping[str, Tensor]) -> None:
        """Makes the devices of a block's layers hold these weights: programs new ones, writes what has changed."""
        for term in mapped_terms(block):
            _, weight, bias = term.operands
            assert isinstance(weight, Weight)
            self._hold(weight.path, term.operation, weights[weight.path].detach())
            if isinstance(bias, Weight):
                self._hold(bias.path, None, weights[bias.path].detach())

    def _hold(self, path: str, operation: Operation | None, weight: Tensor) -> None:
        known = self.devices.get(path)
        if known is None or known.written.shape != weight.shape:
            self.devices[path] = self._programmed(path, operation, weight)
        elif not torch.equal(known.written, weight.to(known.written)):
            self._write(path, known, weight.to(known.written))

    def _programmed(self, path: str, operation: Operation | None, weight: Tensor) -> Devices:
        matrix = _matrix(operation, weight)
        crossbar = self._program(matrix, path, "drive")
        back = crossbar if self.hardware.bidirectional or operation is None else self._program(matrix, path, "feedback")
        return Devices(operation, crossbar, back, weight.clone())

    def _program(self, matrix: Tensor, path: str, use: str) -> Crossbar:
        devices, writing = (stream(self.seed, purpose, use, path) for purpose in ("devices", "programming"))
        return program(matrix, self.hardware, devices, writing)

    def _write(self, path: str, known: Devices, weight: Tensor) -> None:
        """Sends the difference to the devices; what they could not take stays in the difference for the next time."""
        self.writes += 1
        change = _matrix(known.operation, weight - known.written)
        generator = stream(self.seed, "write", path, self.writes)
        crossbar, written = known.crossbar.write(change, self.hardware, generator)
        back = crossbar
        if known.back is not known.crossbar:
            back, _ = known.back.write(change, self.hardware, stream(self.seed, "write feedback", path, self.writes))
        taken = known.written + _weight(known.operation, written, weight)
        if torch.equal(written, change):
            taken = weight.clone()
        self.devices[path] = Devices(known.operation, crossbar, back, taken)
        self.forget(path)

    def forget(self, path: str | None = None) -> None:
        """Drops what was computed from the devices of one weight, or of all."""
        for key in [k for k in self.cache if path is None or (isinstance(k, tuple) and k[1] == path)]:
            del self.cache[key]

    def weight(self, path: str) -> Tensor:
        """The weight that the devices amount to at the hardware's age, in the model's shape."""
        return self._cached(
            "weight", path, lambda d: _weight(d.operation, d.crossbar.weights(self.hardware), d.written)
        )

    def back_weight(self, path: str) -> Tensor:
        """The weight of the feedback: that of the drive, the same tensor, where the array is bidirectional."""
        if self.devices[path].back is self.devices[path].crossbar:
            return self.weight(path)
        return self._cached("back", path, lambda d: _weight(d.operation, d.back.weights(self.hardware), d.written))

    def variance(self, path: str) -> Tensor:
        """The variance of each weight from read to read."""
        return self._cached(
            "variance", path, lambda d: _weight(d.operation, d.crossbar.deviations(self.hardware).square(), d.written)
        )

    def halves(self, path: str) -> tuple[Tensor, Tensor]:
        """The conductances of the positive and of the negative devices in units of the weight, in the model's shape."""
        d = self.devices[path]
        positive, negative = d.crossbar.pair(self.hardware)
        return _weight(d.operation, positive, d.written), _weight(d.operation, negative, d.written)

    def _cached(self, what: str, path: str, compute: Callable[[Devices], Tensor]) -> Tensor:
        key = (what, path)
        if key not in self.cache:
            self.cache[key] = compute(self.devices[path])
        found = self.cache[key]
        assert isinstance(found, Tensor)
        return found

    # --- a block's parts ------------------------------------------------------------------------------

    def parts(self, block: EnergyBlock, states: Mapping[str, Tensor]) -> Parts:
        """The arrays, neurons and amplifiers of a block.

        Args:
            states: one sample or more of each state, of which shape, type and device are read.
        """
        return Parts(
            {t.name: self.array(t) for t in mapped_terms(block)},
            {s.name: self.neurons(s.name, states[s.name]) for s in block.states},
            self._amplifiers(block, states),
        )

    def array(self, term: Term) -> ArrayWeights:
        _, weight, bias = term.operands
        assert isinstance(weight, Weight)
        noisy = self.hardware.read_noise > 0
        has_bias = isinstance(bias, Weight)
        return ArrayWeights(
            self.weight(weight.path),
            self.weight(bias.path) if isinstance(bias, Weight) else None,
            self.back_weight(weight.path),
            self.variance(weight.path) if noisy else None,
            self.variance(bias.path) if noisy and has_bias and isinstance(bias, Weight) else None,
        )

    def neurons(self, state: str, like: Tensor) -> Neurons:
        h = self.hardware
        span = self.ranges[state].high
        volt = span / h.full_scale  # units of the state in a volt
        return Neurons(
            state,
            offset=self._drawn("offset", state, like, h.offset * volt),
            gain=self._mismatch("gain", state, like, h.gain_mismatch),
            limit=float("inf") if h.headroom is None else h.headroom * span,
            noise=h.thermal_noise * volt,
        )

    def _amplifiers(self, block: EnergyBlock, states: Mapping[str, Tensor]) -> dict[tuple[str, str], Amplifier]:
        error = self.hardware.reverse_gain_error
        found = {(l, m): self._mismatch("reverse", f"{l}→{m}", states[l], error) for l, m in block.edges}
        return {edge: Amplifier(gain) for edge, gain in found.items() if gain is not None}

    def _mismatch(self, what: str, name: str, like: Tensor, deviation: float) -> Tensor | None:
        drawn = self._drawn(what, name, like, deviation)
        return None if drawn is None else 1 + drawn

    def _drawn(self, what: str, name: str, like: Tensor, deviation: float) -> Tensor | None:
        """What mismatch gave each neuron of a bank, the same whenever it is asked for; None where there is none."""
        if deviation == 0:
            return None
        shape = like.shape[1:]
        key = (what, name, tuple(shape))
        if key not in self.cache:
            self.cache[key] = torch.randn(shape, generator=stream(self.seed, *key), dtype=torch.float64)
        unit = self.cache[key]
        assert isinstance(unit, Tensor)
        return (deviation * unit).to(like)

    # --- reading --------------------------------------------------------------------------------------

    def sample(self) -> Sample:
        """A new presentation of a batch."""
        return Sample(self.reads, self.hardware.read_noise_correlation)

    def count(self, converter: str, value: Tensor, bits: int | None, span: Range) -> None:
        self.saturation.setdefault(converter, Saturation()).count(value, bits, span)


def mapped_terms(block: EnergyBlock) -> tuple[Term, ...]:
    """The layers of a block whose weights are devices: a weight that is computed while the model runs is not."""
    return tuple(t for t in block.layers if is_mapped(t))


def is_mapped(term: Term) -> bool:
    return (
        term.operation.name in MAPPED_NAMES
        and len(term.operands) == 3
        and isinstance(term.operands[1], Weight)
        and (term.operands[2] is None or isinstance(term.operands[2], Weight))
    )


def _matrix(operation: Operation | None, weight: Tensor) -> Tensor:
    """(groups, rows, columns); a bias is one row."""
    if operation is None:
        return weight.reshape(1, 1, -1)
    return matrix_of(operation.name, weight, operation.options)


def _weight(operation: Operation | None, matrix: Tensor, like: Tensor) -> Tensor:
    """A crossbar's matrix as the model's weight."""
    if operation is None:
        return matrix.reshape(like.shape)
    return weight_of(operation.name, matrix, like.shape, operation.options)
