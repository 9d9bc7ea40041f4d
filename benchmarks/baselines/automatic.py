"""Automatic differentiation through the relaxation: every sweep is recorded, and ``backward`` runs through all of them.

Exact for the states that the sweeps end at, once they have converged; memory grows with the number of sweeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.baselines import sweeps
from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.solve import BoundBlock, States


@dataclass(frozen=True)
class Recorded:
    """An operator for :func:`benchmarks.baselines.chain.run`.

    Attributes:
        sweeps: how many, from zero states.
        seen: called with each block and its free states.
    """

    sweeps: int = 60
    seen: Callable[[EnergyBlock, States], None] = lambda block, states: None

    def __call__(self, bound: BoundBlock) -> States:
        states = sweeps.zeros(bound)
        for _ in range(self.sweeps if bound.block.has_feedback else len(sweeps.colours(bound.block))):
            states = sweeps.sweep(bound, states, differentiable=True)
        self.seen(bound.block, {n: v.detach() for n, v in states.items()})
        return states
