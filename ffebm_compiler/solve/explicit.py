"""Derivatives of the interaction as code: derived once, run without automatic differentiation.

Each coupling's transpose, Jacobian and gradients are traced at the shapes they are first needed at (:mod:`.explicit_maps`) and kept.
Relaxations, contrasts and reverse gains are then sequences of plain operations; what does not depend on the states is
computed once a relaxation, and what depends on the free states alone once a nudged phase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .automatic import AUTOMATIC
from .binding import BoundBlock
from .differentiation import Differentiation, Gradients, Linearised, UnderivableError
from .explicit_kept import Kept
from .explicit_maps import COTANGENT, source
from .explicit_phases import (
    ExplicitLinearisation,
    NarrowProducts,
    Sweeping,
    Total,
    by,
    read_of,
    sources_of,
    wanted_keys,
)


class Explicit:
    """Differentiates interactions by code that it keeps.

    A code belongs to a coupling's operations and to the shapes, types and device of what it reads, so another batch size is derived
    for anew, and moving weights are not. Where none can be derived, automatic differentiation takes its place.

    Args:
        capacity: how many codes to keep; the longest unused go first.
    """

    def __init__(self, capacity: int = 2048):
        self.kept = Kept(capacity)

    def __deepcopy__(self, memo: dict[int, object]) -> Explicit:
        """Itself: what is kept belongs to no model."""
        return self

    def __reduce__(self) -> tuple[type[Explicit], tuple[int]]:
        return type(self), (self.kept.capacity,)  # read again it derives its own

    def narrow(self, bound: BoundBlock) -> NarrowProducts:
        return NarrowProducts(bound, self.kept)

    def interaction(self, bound: BoundBlock) -> Sweeping:
        return Sweeping(bound, self.kept)

    def linearise(self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()) -> Linearised:
        try:
            return ExplicitLinearisation(self.kept, bound, states, wanted)
        except UnderivableError:
            return AUTOMATIC.linearise(bound, states, wanted)

    def interaction_gradients(
        self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> Gradients:
        try:
            return self._interaction_gradients(bound, states, wanted)
        except UnderivableError:
            return AUTOMATIC.interaction_gradients(bound, states, wanted)

    def _interaction_gradients(
        self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> Gradients:
        total = Total(bound, wanted)
        with torch.no_grad():
            for state in bound.block.states:
                read, sources = read_of(bound, state), sources_of(state, states)
                code = self.kept.gradients(state, read, sources, wanted_keys(state.drive, wanted))
                values = {**read.tensors, **by(source, sources), COTANGENT: states[state.name].detach()}
                total.add(bound.layer_weights[state.name], code(values))
        return total.gradients


EXPLICIT: Differentiation = Explicit()
"""The code of all models of this process: it depends on their operations and shapes, not on their weights."""
