"""How long a block takes to settle: from ground, every input applied from then on.

    t_settle = the first time from which  |s_i(t) - s_i*| <= tolerance  max_j |s_j*|  for all neurons of all banks,

with s* the equilibrium, as in :func:`ffebm_compiler.chip.spice.settling_time`. Between steps states are taken as
straight lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...solve import BoundBlock, States, Tolerance, relax
from .phases import Phases
from .reading import Reading
from .transient import FINE

DURATION = 30.0
"""A sample that takes more time constants than these does not settle."""


@dataclass
class Watch:
    """Follows a transient of a batch, and notes for each sample when it came close for the last time.

    Attributes:
        final: where each sample settles, by state.
        tolerance: what counts as close, relative to the largest final value of a bank.
        per_sample: whether dimension 0 of a state counts samples; otherwise all of it is one.
        settled: (samples,) the time so far.
    """

    final: States
    tolerance: float
    per_sample: bool
    settled: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._bands = {n: self.tolerance * self._peaks(s) for n, s in self.final.items() if s.numel()}
        self._before: dict[str, Tensor] = {}
        self._time = 0.0
        self.settled = torch.zeros_like(next(iter(self._bands.values())))

    def start(self, states: States) -> Watch:
        """Where the transient begins, at t = 0."""
        self._before = self._excess(states)
        outside = torch.stack(list(self._before.values())).amax(0) > 0
        self.settled = torch.where(outside, torch.inf, 0.0).to(self.settled)
        return self

    def __call__(self, time: float, states: States) -> None:
        now, since, crossed = self._excess(states), time - self._time, torch.zeros_like(self.settled)
        for n, excess in now.items():
            before = self._before[n]
            came = (before > 0) & (excess <= 0)
            share = torch.where(came, before / (before - excess).clamp(min=torch.finfo(before.dtype).tiny), 0.0)
            crossed = torch.maximum(crossed, torch.where(came, self._time + share * since, 0.0))
        outside = torch.stack(list(now.values())).amax(0) > 0
        self.settled = torch.where(outside, torch.inf, torch.where(crossed > 0, crossed, self.settled))
        self._before, self._time = now, time

    def _excess(self, states: States) -> dict[str, Tensor]:
        """How far each sample's worst neuron of a bank is outside of its band; negative inside."""
        return {n: self._peaks(states[n] - self.final[n]) - band for n, band in self._bands.items()}

    def _peaks(self, value: Tensor) -> Tensor:
        return value.abs().flatten(1).amax(1) if self.per_sample else value.abs().amax().reshape(1)


def settling_times(
    phases: Phases, bound: BoundBlock, reading: Reading, tolerance: float = 0.01, duration: float = DURATION
) -> Tensor:
    """When each sample of a batch has settled in its free phase, in s; inf if not within ``duration`` time constants.

    Args:
        phases: what the block uses of its chip.
        bound: the block.
        reading: the noise of the phase.
        tolerance: relative to the largest equilibrium value of a state.
        duration: how long to look, in time constants.
    """
    with torch.no_grad():
        final = relax(phases.emulated(bound, reading), Tolerance()).states
        transient = phases.transient(bound, reading, {})
        ground = transient.at_rest(final)
        watch = Watch(final, tolerance, phases.batch is not None).start(transient.outputs(ground))
        transient.run(ground, duration, FINE, watch)
    return watch.settled * phases.chip.hardware.time_constant
