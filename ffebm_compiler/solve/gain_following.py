"""Reverse gains that follow moving weights, by one step of power iteration a coupling in each training step.

    z = J^T J v,     |J|^2 >= |z| >= <v, z>,     v' = z / |z|

From a leading direction that a longer iteration has found, this keeps up with weights that an optimizer moves. Source: as in
spectral normalisation, Miyato et al. 2018, algorithm 1. A direction lags behind, so what it gives falls short. What is taken is

    |J|^2 <= <v, z> + |z - <v, z> v|,

which holds as long as v is within 45 degrees of the leading direction: with the part p of its length along that, the second term is at least
``sqrt(p / (1 - p))`` times what the first lacks.
"""

from __future__ import annotations

import torch

from .binding import BoundBlock
from .derivatives.automatic import AUTOMATIC
from .derivatives.interface import Differentiation
from .loop_gain import Gains, bounded_gains, exactly, finite, layer_weights_of, squared
from .norm_sample import Sample

JUMP = 0.05
"""Norms that have changed by more than this part of themselves were not moved by a training step, and are measured anew."""

TURN = 0.9
"""So are those whose direction is further from a leading one than this cosine of v and z says: other weights may give a stale direction the
former norm by chance."""


def followed_gains(
    bound: BoundBlock,
    loop_gain: float,
    previous: Gains,
    sample: Sample | None = None,
    differentiation: Differentiation = AUTOMATIC,
) -> Gains:
    """The gains of a block whose weights have moved a little since ``previous``.

    Args:
        bound: the block on an example input, of which the shapes matter.
        loop_gain: the bound on every coupling's loop gain.
        previous: gains with the leading direction of every coupling.
        sample: of this block, where it is known already.
        differentiation: how J and its transpose are found.

    Raises:
        InfiniteNormError: a coupling whose norm is no finite number.
    """
    sample = Sample.of(bound) if sample is None else sample
    if not previous.directions or any(v.shape != sample.source(edge).shape for edge, v in previous.directions.items()):
        return bounded_gains(bound, loop_gain, sample, differentiation=differentiation)  # images of another size
    with exactly(bound):
        linear = sample.linearised(bound, differentiation)
        directions = {e: v.to(sample.source(e)) for e, v in previous.directions.items()}
        images = {e: squared(linear[e[1]], e, v) for e, v in directions.items()}
        lengths = {e: z.norm() for e, z in images.items()}
        along = [(z * directions[e]).sum() for e, z in images.items()]
        read = torch.stack([*lengths.values(), *along]).tolist()  # one transfer a block
    squares = dict(zip(lengths, read, strict=False))
    bounds = {
        e: a + max((square - a) * (square + a), 0.0) ** 0.5  # a square of what is too large would raise
        for (e, square), a in zip(squares.items(), read[len(lengths) :], strict=True)
    }
    norms = {e: finite(bound, e) ** 0.5 for e, bound in bounds.items()}
    jumped = any(abs(norm - previous.norms[e]) > JUMP * previous.norms[e] for e, norm in norms.items())
    turned = any(a < TURN * square for a, square in zip(read[len(lengths) :], squares.values(), strict=True))
    if jumped or turned:
        return bounded_gains(bound, loop_gain, sample, differentiation=differentiation)
    moved = {e: z / lengths[e] if norms[e] > 0 else directions[e] for e, z in images.items()}
    return Gains(layer_weights_of(bound.block, norms, loop_gain), norms, moved)
