"""One emulated chip: the devices of every layer, the mismatch of every neuron, the calibrated ranges.

What differs from device to device follows from ``seed`` alone; what differs from read to read comes from the generator
``reads``. Writing returns nothing and changes the chip: a chip has a history, as a real one has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...errors import OptionError, close_matches
from ...ir import Array, EnergyBlock, Kind, Term, Weight
from ..hardware import Hardware, mapping, stream
from ..hardware.crossbar import Crossbar, program
from ..hardware.mapping import array_of
from .array import ArrayWeights
from .converters import Range, Saturation
from .neurons import Amplifier, Neurons
from .reading import Sample
from .transform import Parts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How a weight lies on an array.

    Attributes:
        kind: of the operation whose weight it is, or that of biases.
        options: those of the operation that the layout depends on.
    """

    kind: Kind
    options: Mapping[str, int]

    @staticmethod
    def for_term(term: Term) -> Layout:
        kind = term.operation.kind
        return Layout(kind, {k: term.operation.options[k] for k in _array(kind).options})

    def matrix(self, weight: Tensor) -> Tensor:
        """(groups, rows, columns)."""
        return _array(self.kind).matrix(weight, self.options)

    def weight(self, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A matrix of the array in the shape of the model's weight."""
        return _array(self.kind).weight(matrix, tuple(shape), self.options)


def _array(kind: Kind) -> Array:
    array = array_of(kind)
    assert array is not None, f"no array holds the weights of {kind.name}"
    return array


BIAS = Layout(mapping.BIAS, {})


@dataclass(frozen=True)
class Devices:
    """The devices of one weight, and what the controller believes to have written.

    Attributes:
        layout: how the weight lies on the array.
        crossbar: the devices.
        back: those of the feedback; the same object where the array is bidirectional.
        written: the weight as last written, in the model's shape; what an update has not reached yet is the difference
            to it.
        asked: the weight that was last asked for: while the model's does not move, nothing is written.
    """

    layout: Layout
    crossbar: Crossbar
    back: Crossbar
    written: Tensor
    asked: Tensor

    def in_model(self, matrix: Tensor) -> Tensor:
        return self.layout.weight(matrix, tuple(self.written.shape))


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
            weight, bias = device_paths(term)
            self._hold(weight, Layout.for_term(term), weights[weight].detach())
            if bias is not None:
                self._hold(bias, BIAS, weights[bias].detach())

    def _hold(self, path: str, layout: Layout, weight: Tensor) -> None:
        known = self.devices.get(path)
        if known is None or known.written.shape != weight.shape:
            self.devices[path] = self._programmed(path, layout, weight)
            self.forget(path)
        elif known.written.device != weight.device or known.written.dtype != weight.dtype:
            self.devices[path] = known = _moved(known, weight)
            self.forget(path)
        if not torch.equal(self.devices[path].asked, weight):
            self._write(path, self.devices[path], weight)

    def _programmed(self, path: str, layout: Layout, weight: Tensor) -> Devices:
        matrix = layout.matrix(weight)
        crossbar = self._program(matrix, path, "drive")
        one_way = not self.hardware.bidirectional and layout != BIAS
        back = self._program(matrix, path, "feedback") if one_way else crossbar
        known = Devices(layout, crossbar, back, weight.clone(), weight.clone())
        exact = self.hardware.write == "ideal"
        return known if exact else replace(known, written=known.in_model(crossbar.aim).to(weight))

    def _program(self, matrix: Tensor, path: str, use: str) -> Crossbar:
        devices, writing = (stream(self.seed, purpose, use, path) for purpose in ("devices", "programming"))
        return program(matrix, self.hardware, devices, writing)

    def _write(self, path: str, known: Devices, weight: Tensor) -> None:
        """Sends the difference to the devices of weights that have moved; what they can't take waits."""
        self.writes += 1
        change = known.layout.matrix(torch.where(weight == known.asked, 0.0, weight - known.written))
        crossbar, written = known.crossbar.write(change, self.hardware, self._writing(path, "drive"))
        back = crossbar
        if known.back is not known.crossbar:
            back, _ = known.back.write(change, self.hardware, self._writing(path, "feedback"))
        exact = self.hardware.write == "ideal"
        taken = weight.clone() if exact else known.written + known.in_model(written).to(weight)
        self.devices[path] = replace(known, crossbar=crossbar, back=back, written=taken, asked=weight.clone())
        self.forget(path)

    def _writing(self, path: str, use: str) -> torch.Generator:
        return stream(self.seed, "write", use, path, self.writes)

    def forget(self, path: str | None = None) -> None:
        """Drops what was computed from the devices of one weight, or of all."""
        for key in [k for k in self.cache if path is None or (isinstance(k, tuple) and k[1] == path)]:
            del self.cache[key]

    def weight(self, path: str) -> Tensor:
        """The weight that the devices amount to at the hardware's age, in the model's shape."""
        return self._cached("weight", path, lambda d: d.in_model(d.crossbar.weights(self.hardware)))

    def back_weight(self, path: str) -> Tensor:
        """The weight of the feedback: that of the drive, the same tensor, where the array is bidirectional."""
        if self._devices(path).back is self._devices(path).crossbar:
            return self.weight(path)
        return self._cached("back", path, lambda d: d.in_model(d.back.weights(self.hardware)))

    def variance(self, path: str) -> Tensor:
        """The variance of each weight from read to read."""
        return self._cached("variance", path, lambda d: d.in_model(d.crossbar.deviations(self.hardware).square()))

    def back_variance(self, path: str) -> Tensor | None:
        """The same of a second array for the feedback; None where there is none."""
        if self._devices(path).back is self._devices(path).crossbar:
            return None
        return self._cached("back variance", path, lambda d: d.in_model(d.back.deviations(self.hardware).square()))

    def halves(self, path: str, back: bool = False) -> tuple[Tensor, Tensor]:
        """The conductances of the positive and of the negative devices in units of the weight, in the model's shape."""
        d = self._devices(path)
        positive, negative = (d.back if back else d.crossbar).pair(self.hardware)
        return d.in_model(positive), d.in_model(negative)

    def target_sum(self, path: str) -> Tensor:
        """``P + N`` that the devices of a weight are meant to have, in units of the weight and in the model's shape."""
        d = self._devices(path)
        h, scale = self.hardware, d.crossbar.tiling.spread(d.crossbar.scale)
        return d.in_model(d.layout.matrix(d.written.abs()).to(scale) + 2 * h.g_min / scale)

    def _devices(self, path: str) -> Devices:
        known = self.devices.get(path)
        if known is None:
            empty = "Run the chip on an input first: it is programmed then."
            advice = close_matches(str(path), list(self.devices)) if self.devices else empty
            raise OptionError.at(f"weight {path!r}", "is on no array of this chip", advice)
        return known

    def _cached(self, what: str, path: str, compute: Callable[[Devices], Tensor]) -> Tensor:
        key = (what, path, self.hardware)  # at another age the same devices amount to other weights
        if key not in self.cache:
            self.cache[key] = compute(self._devices(path))
        cached = self.cache[key]
        assert isinstance(cached, Tensor)
        return cached

    # --- a block's parts ------------------------------------------------------------------------------

    def parts(
        self, block: EnergyBlock, states: Mapping[str, Tensor], conductances: Mapping[str, Tensor] | None = None
    ) -> Parts:
        """The arrays, neurons and amplifiers of a block.

        Args:
            states: one sample or more of each state, of which shape, type and device are read.
            conductances: of each node, in resistive networks.
        """
        return Parts(
            {t.name: self.array(t) for t in mapped_terms(block)},
            {s.name: self.neurons(s.name, states[s.name], (conductances or {}).get(s.name)) for s in block.states},
            self.amplifiers(block, states),
        )

    def array(self, term: Term) -> ArrayWeights:
        weight, bias = device_paths(term)
        amounts = self.weight(weight), None if bias is None else self.weight(bias), self.back_weight(weight)
        if self.hardware.read_noise == 0:
            return ArrayWeights(*amounts)
        bias_variance = None if bias is None else self.variance(bias)
        return ArrayWeights(*amounts, self.variance(weight), bias_variance, self.back_variance(weight))

    def neurons(self, state: str, like: Tensor, conductance: Tensor | None = None) -> Neurons:
        h = self.hardware
        span = self.ranges[state].high
        volt = span / h.full_scale  # units of the state in a volt
        return Neurons(
            state,
            offset=self._drawn("offset", state, like, h.offset * volt),
            gain=self._mismatch("gain", state, like, h.gain_mismatch),
            conductance=None if conductance is None else conductance.to(like),
            limit=float("inf") if h.headroom is None else h.headroom * span,
            noise=h.thermal_noise * volt,
        )

    def amplifiers(self, block: EnergyBlock, states: Mapping[str, Tensor]) -> dict[tuple[str, str], Amplifier]:
        error = self.hardware.reverse_gain_error
        gains = {(l, m): self._mismatch("reverse", f"{l}→{m}", states[l], error) for l, m in block.edges}
        return {edge: Amplifier(gain) for edge, gain in gains.items() if gain is not None}

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
        counted = self.saturation.setdefault(converter, Saturation())
        counted.count(value, bits, span)
        if counted.is_news:
            counted.told = True
            logger.warning(
                "%s: %.0f %% of the values lie outside of its range; calibrate(x) again on data like these",
                converter,
                100 * counted.part,
            )


def mapped_terms(block: EnergyBlock) -> tuple[Term, ...]:
    """The layers of a block whose weights are devices: a weight that is computed while the model runs is not."""
    return tuple(t for t in block.layers if is_mapped(t))


def device_paths(term: Term) -> tuple[str, str | None]:
    """The paths of a mapped layer's weight, and of its bias if it has one."""
    _, weight, bias = term.operands
    assert isinstance(weight, Weight)
    return weight.path, bias.path if isinstance(bias, Weight) else None


def is_mapped(term: Term) -> bool:
    return (
        array_of(term.operation.kind) is not None
        and len(term.operands) == 3
        and isinstance(term.operands[1], Weight)
        and (term.operands[2] is None or isinstance(term.operands[2], Weight))
    )


def _moved(known: Devices, like: Tensor) -> Devices:
    """The devices of a model that was moved to another device, or to another type; what they hold stays as it was."""
    crossbar = known.crossbar.to(like.device)
    back = crossbar if known.back is known.crossbar else known.back.to(like.device)
    return replace(known, crossbar=crossbar, back=back, written=known.written.to(like), asked=known.asked.to(like))
