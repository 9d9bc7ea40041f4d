"""The phases of a block on a chip: free and nudged, each a settling of the emulated circuit.

Without a settling time a phase ends at the equilibrium; with one it is the transient, from ground in the free phase and
from the free state in a nudged one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...estimate import FreePhase
from ...estimate.literal import nudged_equilibrium
from ...solve import BoundBlock, Equilibrium, Relaxation, States, Tolerance, relax
from ..hardware import Hardware
from .chip import Chip
from .reading import Reading
from .transform import Parts, on_chip
from .transient import Transient

IDEAL = Hardware()
BESIDES: dict[str, Any] = {
    n: getattr(IDEAL, n) for n in ("name", "nudge", "nudge_bits", "learning_reads", "learning_bits", "learning_readout")
}
"""What has no part in how a block settles: its nudges, and how they are read."""


@dataclass(frozen=True)
class Phases:
    """One presentation of a batch to a block on a chip.

    Attributes:
        chip: the chip.
        parts: what the block uses of it.
        batch: the number of samples, each of which may be nudged by a strength of its own; None where they can't be
            told apart.
    """

    chip: Chip
    parts: Parts
    batch: int | None = None

    def emulated(self, bound: BoundBlock, reading: Reading, with_neurons: bool = True) -> BoundBlock:
        """The block as the chip carries it out in one phase."""
        block = on_chip(bound.block, self.parts, reading, with_neurons)
        settles_ideally = replace(self.chip.hardware, **BESIDES) == IDEAL
        certified = bound.contraction if settles_ideally else None  # what a real chip's gains certify is not known
        return BoundBlock(block, bound.inputs, bound.weights, bound.layer_weights, contraction=certified)

    def free(self, bound: BoundBlock, tolerance: Tolerance, reading: Reading) -> Equilibrium:
        """The free phase."""
        if self.chip.hardware.settling_time is None:
            return relax(self.emulated(bound, reading), tolerance)
        transient = self.transient(bound, reading, {})
        u, record = transient.run(transient.at_rest(bound.detached().feedforward()), self._duration)
        return Equilibrium(transient.outputs(u), record)

    def nudged(
        self, free: FreePhase, errors: Mapping[str, Tensor], beta: float, reading: Reading
    ) -> tuple[States, Relaxation]:
        """A nudged phase of ``E + beta <s_out, errors>``, from the free state.

        Pooling winners follow the states, as they do in a circuit, unless the free phase holds them.
        """
        if self.chip.hardware.settling_time is None:
            bound = self.emulated(free.bound, reading)
            return nudged_equilibrium(FreePhase(bound, free.states, free.relaxation, free.tolerance), errors, beta)
        w = free.bound.layer_weights
        transient = self.transient(free.bound, reading, {n: beta / w[n] * e for n, e in errors.items()})
        u, record = transient.run(self._voltages(transient, free.states), self._duration)
        return transient.outputs(u), record

    @property
    def _duration(self) -> float:
        """A phase in time constants."""
        h = self.chip.hardware
        assert h.settling_time is not None
        return h.settling_time / h.time_constant

    def transient(self, bound: BoundBlock, reading: Reading, nudge: Mapping[str, Tensor]) -> Transient:
        """The block in time, with the noise of one phase and a current ``beta delta / w`` drawn from outputs."""
        emulated = self.emulated(bound, reading, with_neurons=False).detached()
        noise = self.chip.reads if self.chip.hardware.temperature > 0 else None
        return Transient(emulated, self.parts.neurons, nudge, noise, self.chip.hardware.physics == "resistive")

    @staticmethod
    def _voltages(transient: Transient, states: States) -> States:
        """Node voltages of settled states: those that their currents hold."""
        if transient.held:
            return states
        a = transient.bound.stationarity(states)
        return {n: transient.neurons[n].input(a[n]) for n in a}
