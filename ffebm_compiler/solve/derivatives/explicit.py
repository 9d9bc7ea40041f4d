"""Derivatives of the interaction by the derivatives of its operations, without automatic differentiation.

Each operation knows its transpose (:mod:`.transposes`), so nothing is derived, traced or compiled before a block runs, whatever its
shapes. Relaxations, contrasts and reverse gains are sequences of plain operations; what does not depend on the states is computed once
a relaxation, and what depends on the free states alone once a nudged phase. An operation of a user's own that has no derivative in the
table is differentiated automatically, for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..binding import BoundBlock
from .interface import Differentiation, Gradients
from .phases import ExplicitLinearisation, Sweeping, Total
from .plan import weight_keys
from .point import point_of, sources_of


@dataclass(frozen=True)
class Explicit:
    """Differentiates interactions by the derivatives of their operations."""

    def interaction(self, bound: BoundBlock) -> Sweeping:
        return Sweeping(bound)

    def linearise(
        self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()
    ) -> ExplicitLinearisation:
        return ExplicitLinearisation(bound, states, wanted)

    def interaction_gradients(
        self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> Gradients:
        total = Total(bound, wanted)
        with torch.no_grad():
            for state in bound.block.states:
                if keys := weight_keys(state.drive, wanted):
                    point = point_of(bound, state, sources_of(state, states))
                    output = {point.plan.coupling.output: states[state.name].detach()}
                    found = point.back(point.plan.back(keys), output)
                    total.add(bound.layer_weights[state.name], {k: found[k] for k in keys if k in found})
        return total.gradients


EXPLICIT: Differentiation = Explicit()
