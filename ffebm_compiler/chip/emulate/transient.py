"""How a block settles in time: the transient of leaky neurons, for as long as a phase lasts.

    tau du_l/dt = -u_l + a_l(s) - beta delta_l / w_l,     s_l = sigma_l(u_l)

by the exponential Heun method (ETD2RK, Cox & Matthews 2002) in steps of h = STEP tau: exact while the currents stand
still,

    u'  = e^-h u + (1 - e^-h) a(u)
    u+  = u' + (e^-h - 1 + h) / h (a(u') - a(u))

In a resistive network a node of conductance D has the time constant tau / D, and its diodes hold the node itself: u is
clipped after each step.

Thermal noise of a leaky node is an Ornstein-Uhlenbeck process: each step adds noise of variance (1 - e^-2hD) kT/C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir import EnergyBlock
from ...solve import BoundBlock, Relaxation, States
from ...solve.iteration import peak
from .neurons import Neurons

STEP = 0.25
"""h of a phase, in time constants: what is read at its end is right to 0.1 % of what is still to settle."""

FINE = 0.05
"""h where the course itself is looked at, as for a settling time."""

SETTLED = 0.01
"""A transient has settled once no current differs from its neuron's leak by more than this part of the largest."""


Decay = tuple[Tensor | float, Tensor | float]
"""What one step keeps of a node's distance to its target, and the weight of the target's change within the step."""


@dataclass(frozen=True)
class Transient:
    """A block in time.

    Attributes:
        bound: the block on a chip, its potentials the ideal ones.
        neurons: the circuits that take their place, by state.
        nudge: current drawn from each output, ``beta delta / w``, by state.
        noise: the generator of thermal noise; None for none.
        held: whether diodes hold the nodes themselves (resistive).
    """

    bound: BoundBlock
    neurons: Mapping[str, Neurons]
    nudge: Mapping[str, Tensor]
    noise: torch.Generator | None = None
    held: bool = False

    @property
    def block(self) -> EnergyBlock:
        return self.bound.block

    def outputs(self, u: States) -> States:
        """s of the node voltages."""
        return {s.name: self.neurons[s.name].output(u[s.name], s.potential) for s in self.block.states}

    def targets(self, u: States) -> States:
        """The voltages that the present currents drive the nodes to."""
        a = self.bound.stationarity(self.outputs(u))
        return {n: self.neurons[n].input(a[n] - self.nudge[n] if n in self.nudge else a[n]) for n in a}

    def step(self, u: States, decay: Mapping[str, Decay]) -> States:
        a = self.targets(u)
        half = {n: a[n] + decay[n][0] * (u[n] - a[n]) for n in u}
        later = self.targets(half)
        new = {n: half[n] + decay[n][1] * (later[n] - a[n]) for n in u}
        new = self._disturbed(new, {n: (1 - decay[n][0] ** 2) ** 0.5 for n in u})
        return self.outputs(new) if self.held else new

    def _decay(self, name: str, h: float) -> Decay:
        """e^-z and (e^-z - 1 + z) / z of ``z = h D``."""
        conductance = self.neurons[name].conductance
        if conductance is None:
            return math.exp(-h), (math.exp(-h) - 1 + h) / h
        z = h * conductance
        return torch.exp(-z), (torch.exp(-z) - 1 + z) / z

    def _disturbed(self, u: States, part: Mapping[str, Tensor | float]) -> States:
        if self.noise is None:
            return u
        return {
            n: v + self.neurons[n].noise * part[n] * torch.randn(v.shape, generator=self.noise).to(v)
            for n, v in u.items()
        }

    def run(
        self, u: States, duration: float, step: float = STEP, watch: Callable[[float, States], None] | None = None
    ) -> tuple[States, Relaxation]:
        """The node voltages after ``duration`` time constants, and how far from equilibrium they are.

        Args:
            u: where it starts.
            step: h, in time constants.
            watch: called with the time and the outputs after every step.
        """
        steps = max(1, math.ceil(duration / step))
        decay = {n: self._decay(n, duration / steps) for n in u}
        with torch.no_grad():
            for k in range(steps):
                u = self.step(u, decay)
                if watch is not None:
                    watch((k + 1) * duration / steps, self.outputs(u))
            residual = self.residual(u)
        return u, Relaxation(self.block.name, steps, residual, residual <= SETTLED)

    def residual(self, u: States) -> float:
        """max_l |a_l - u_l| / |a_l|, with a_l as the diodes hold it where they do; thermal noise is part of it."""
        a = self.outputs(self.targets(u)) if self.held else self.targets(u)
        parts = [peak(a[n] - u[n]) / peak(a[n]).clamp(min=1e-30) for n in u if u[n].numel()]
        return float(torch.stack(parts).amax()) if parts else 0.0

    def at_rest(self, like: States) -> States:
        """All nodes at ground, which an activation sees with the neuron's offset."""
        return {n: self.neurons[n].input(torch.zeros_like(v)) for n, v in like.items()}
