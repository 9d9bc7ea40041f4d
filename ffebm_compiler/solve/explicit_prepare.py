"""Derives all that a block will need at given shapes, before it is needed.

Every kind of phase is gone through once, in as few sweeps as show its shapes; what it finds is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .binding import BoundBlock
from .displacement import displace
from .explicit import Explicit
from .loop_gain import spectral_norms
from .norm_sample import one_sample
from .relaxation import relax
from .tolerance import Tolerance

ONCE = Tolerance(0.0, 2)


def prepare(maps: Explicit, bound: BoundBlock, wanted: Sequence[str] = ()) -> None:
    """Makes ``maps`` know a block at the shapes, types and device of the tensors that it is bound to.

    Free and nudged phases, contrasts, and reverse gains from one sample are then run without automatic differentiation; another batch
    size needs to be prepared for in its turn.

    Args:
        maps: what keeps the code.
        bound: the block on inputs like those to come; of their values only the shapes matter.
        wanted: the inputs and weights that gradients will be asked for.
    """
    with torch.no_grad():
        for held in (bound, bound.holding(bound.winners(bound.feedforward()))):
            _go_through(maps, held, wanted)
        if bound.block.has_feedback:
            spectral_norms(one_sample(bound), steps=1, differentiation=maps)


def _go_through(maps: Explicit, bound: BoundBlock, wanted: Sequence[str]) -> None:
    states = relax(bound, ONCE, differentiation=maps).states
    interaction = maps.interaction(bound)
    for state in bound.block.states:
        interaction.drive(state, states)
    if not wanted:
        return
    maps.interaction_gradients(bound, states, wanted)
    linear = maps.linearise(bound, states, wanted)
    displace(linear, {n: states[n] for n in bound.block.outputs}, 1.0, ONCE)
    for mean in ({}, states):
        linear.contrast(states, mean)
