"""The gradient that the hardware delivers: equilibrium propagation from what its converters read.

Each sample n is nudged by ``beta = nudge * range / max_i |delta_ni|``, as strongly as the hardware may, through the
nudge DAC. Two nudged phases settle; the states are read, and the gradient is their activity difference (Yi et al. 2023,
Nature Electronics 6)

    dL/dW = - sum_n w_m ( s_m(+beta) (x) s_l(+beta) - s_m(-beta) (x) s_l(-beta) ) / (2 beta_n)

while the error of an input is the difference of the currents that flow back into it through the arrays.
With ``learning_reads`` above 1 both phases are repeated and the gradient is the mean.
What is read: both states, rounded; or their difference, taken by sample and hold before an ADC whose range fits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...estimate import Estimate, FreePhase
from ...solve import BoundBlock, Gradients, States, gradients_of
from ..hardware import Hardware
from .converters import Range, quantised
from .phases import Phases
from .reading import Reading, Sample


@dataclass(frozen=True)
class Nudge:
    """The errors as they are driven into the chip.

    Attributes:
        errors: delta / max|delta| of each sample, rounded by the nudge DAC, by output.
        strength: beta that goes with them.
        scale: (batch,) or scalar: the max|delta| that was divided by; 0 for a sample without error.
    """

    errors: States
    strength: float
    scale: Tensor

    @staticmethod
    def from_errors(
        errors: Mapping[str, Tensor], hardware: Hardware, ranges: Mapping[str, Range], per_sample: bool
    ) -> Nudge:
        scale = _largest(errors, per_sample)
        divided = {n: _divided(e, scale) for n, e in errors.items()}
        rounded = {n: quantised(e, hardware.nudge_bits, Range(1.0, True)) for n, e in divided.items()}
        reach = min(ranges[n].high for n in errors)
        return Nudge(rounded, hardware.nudge * reach, scale)


def _largest(errors: Mapping[str, Tensor], per_sample: bool) -> Tensor:
    """max|delta| over all outputs: of each sample, or of the batch."""
    peaks = [e.abs().flatten(1).amax(1) if per_sample else e.abs().amax() for e in errors.values()]
    return torch.stack(peaks).amax(0)


def _beside(scale: Tensor, value: Tensor) -> Tensor:
    """A number of each sample, shaped to multiply a value."""
    return scale if scale.dim() == 0 else scale.reshape(-1, *[1] * (value.dim() - 1))


def _divided(error: Tensor, scale: Tensor) -> Tensor:
    shaped = _beside(scale, error)
    return torch.where(shaped > 0, error / shaped.clamp(min=torch.finfo(error.dtype).tiny), 0.0)


@dataclass(frozen=True)
class OnChip:
    """Centered equilibrium propagation in two nudged phases on a chip.

    Attributes:
        phases: the presentation that the free phase belongs to.
        sample: its noise.
    """

    phases: Phases
    sample: Sample

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        chip = self.phases.chip
        if not all(bool(torch.isfinite(e).all()) for e in errors.values()):
            return Estimate(_everywhere(free, wanted, float("nan")))
        nudge = Nudge.from_errors(errors, chip.hardware, chip.ranges, self.phases.batch is not None)
        if not bool((nudge.scale > 0).any()):
            return Estimate(_everywhere(free, wanted, 0.0))
        rounds = [self._round(free, nudge, wanted) for _ in range(chip.hardware.learning_reads)]
        return _mean(rounds)

    def _round(self, free: FreePhase, nudge: Nudge, wanted: Sequence[str]) -> Estimate:
        """Both nudged phases once, and what is read of them."""
        readings = self.sample.phase(), self.sample.phase()
        (plus, first), (minus, second) = (
            self.phases.nudged(free, nudge.errors, sign * nudge.strength, reading)
            for sign, reading in zip((1, -1), readings, strict=True)
        )
        factor = nudge.scale / (2 * nudge.strength)
        gradients = self._of_weights(free, plus, minus, factor, [n for n in wanted if n in free.bound.weights])
        inputs = [n for n in wanted if n in free.bound.inputs]
        gradients |= self._of_inputs(free, (plus, minus), readings, factor, inputs)
        return Estimate(gradients, (first, second))

    # --- weights: from the states that are read -------------------------------------------------------

    def _of_weights(
        self, free: FreePhase, plus: States, minus: States, factor: Tensor, wanted: Sequence[str]
    ) -> Gradients:
        if not wanted:
            return {}
        read = [self.read(plus[n], minus[n], n) for n in plus]
        sides = [dict(zip(plus, side, strict=True)) for side in zip(*read, strict=True)]
        first, second = (interaction_gradients(free.bound, s, factor, wanted) for s in sides)
        return {n: first[n] - second[n] for n in wanted}

    def read(self, plus: Tensor, minus: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Both nudged states as the controller knows them."""
        hardware, span = self.phases.chip.hardware, self.phases.chip.ranges[name]
        bits = hardware.learning_bits
        if hardware.learning_readout == "states":
            return quantised(plus, bits, span), quantised(minus, bits, span)
        half = fitted((plus - minus) / 2, bits)
        middle = quantised((plus + minus) / 2, hardware.adc_bits, span)
        return middle + half, middle - half

    # --- inputs: from the currents that flow back -----------------------------------------------------

    def _of_inputs(
        self,
        free: FreePhase,
        states: tuple[States, States],
        readings: tuple[Reading, Reading],
        factor: Tensor,
        wanted: Sequence[str],
    ) -> Gradients:
        if not wanted:
            return {}
        bounds = [self.phases.emulated(free.bound, reading) for reading in readings]
        currents = [
            interaction_gradients(b, s, torch.ones_like(factor), wanted) for b, s in zip(bounds, states, strict=True)
        ]
        first, second = currents
        return {n: self.read_current(first[n], second[n]) * _beside(factor, first[n]) for n in wanted}

    def read_current(self, plus: Tensor, minus: Tensor) -> Tensor:
        """The difference of two phases' currents into an input."""
        hardware = self.phases.chip.hardware
        bits = hardware.learning_bits
        if hardware.learning_readout == "difference" or bits is None:
            return fitted(plus - minus, bits)
        span = Range.covering(torch.stack((plus, minus)))
        return quantised(plus, bits, span) - quantised(minus, bits, span)


def fitted(value: Tensor, bits: int | None) -> Tensor:
    """The value through an ADC behind a programmable gain that makes use of its range, set anew for each sample."""
    if bits is None or value.numel() == 0:
        return value
    reach = value.abs().flatten(1).amax(1) if value.dim() > 1 else value.abs().amax()
    unit = _beside(reach.clamp(min=torch.finfo(value.dtype).tiny), value)
    return quantised(value / unit, bits, Range(1.0, True)) * unit


def interaction_gradients(
    bound: BoundBlock, states: Mapping[str, Tensor], factor: Tensor, wanted: Sequence[str]
) -> Gradients:
    """``- sum_n factor_n sum_m w_m <s_m, df_m/dtheta>``: the gradient of the energy, each sample with its factor."""
    with torch.enable_grad():
        bound, leaves = bound.with_leaves(wanted)
        fixed = {k: v.detach() for k, v in states.items()}
        terms = [
            bound.layer_weights[s.name] * (_beside(factor, fixed[s.name]) * fixed[s.name] * bound.drive(s, fixed)).sum()
            for s in bound.block.states
        ]
        return gradients_of(-torch.stack(terms).sum(), leaves)


def _mean(rounds: Sequence[Estimate]) -> Estimate:
    names = rounds[0].gradients
    gradients = {n: torch.stack([r.gradients[n] for r in rounds]).mean(0) for n in names} if len(rounds) > 1 else names
    return Estimate(dict(gradients), tuple(record for r in rounds for record in r.relaxations))


def _everywhere(free: FreePhase, wanted: Sequence[str], value: float) -> Gradients:
    _, leaves = free.bound.with_leaves(wanted)
    return {n: torch.full_like(v, value) for n, v in leaves.items()}
