"""Reverse gains that follow moving weights, by one step of power iteration a coupling in each training step.

    z = J^T J v,     |J|^2 >= |z| >= <v, z>,     v' = z / |z|

From a leading direction that a longer iteration has found, this keeps up with weights that an optimizer moves. Source: as in
spectral normalisation, Miyato et al. 2018, algorithm 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .automatic import AUTOMATIC
from .binding import BoundBlock
from .contraction import Edge
from .differentiation import Differentiation, Linearised
from .loop_gain import Gains, Sample, bounded_gains, cut_to_one, layer_weights_of, sampled, shapes_of

JUMP = 0.05
"""Norms that have changed by more than this part of themselves were not moved by a training step, and are measured anew."""


def followed_gains(
    bound: BoundBlock, loop_gain: float, previous: Gains, differentiation: Differentiation = AUTOMATIC
) -> Gains:
    """The gains of a block whose weights have moved a little since ``previous``.

    Args:
        bound: the block on an example input; one sample of it is used.
        loop_gain: the bound on every coupling's loop gain.
        previous: gains with the leading direction of every coupling.
        differentiation: how J and its transpose are found.
    """
    cut, sample = _same_sample(bound, previous) or sampled(bound)
    if any(v.shape != sample.point[source].shape for (source, _), v in previous.directions.items()):
        return bounded_gains(bound, loop_gain, differentiation=differentiation)  # images of another size
    with torch.no_grad():
        linear = differentiation.linearise(cut, sample.point)
        images = {e: _image(linear, e, v.to(sample.point[e[0]])) for e, v in previous.directions.items()}
        lengths = {e: z.norm() for e, z in images.items()}
        squares = dict(zip(lengths, torch.stack([*lengths.values()]).tolist(), strict=True))  # one transfer a block
    if any(abs(square**0.5 - previous.norms[e]) > JUMP * previous.norms[e] for e, square in squares.items()):
        return bounded_gains(bound, loop_gain, previous, differentiation=differentiation)
    norms = {e: square**0.5 if 0 < square < float("inf") else 0.0 for e, square in squares.items()}
    moved = {e: z / lengths[e] if norms[e] > 0 else previous.directions[e] for e, z in images.items()}
    return replace(
        previous,
        layer_weights=layer_weights_of(bound.block, norms, loop_gain),
        norms=norms,
        directions=moved,
        sample=sample,
    )


def _same_sample(bound: BoundBlock, previous: Gains) -> tuple[BoundBlock, Sample] | None:
    """One sample of a block, cut as it was before; None where the inputs are of other shapes than they were."""
    if previous.sample is None:
        return None
    batches = {v.shape[0] for v in bound.inputs.values() if isinstance(v, Tensor) and v.dim() > 0}
    cut = cut_to_one(bound, *batches) if len(batches) == 1 else bound
    known = previous.sample.shapes
    kept = next((b for b in (cut, bound) if shapes_of(b) == known), None)
    return None if kept is None else (kept, previous.sample)


def _image(linear: Linearised, edge: Edge, v: Tensor) -> Tensor:
    """J^T J v of one coupling; zero where J vanishes."""
    source, target = edge
    state = linear.bound.block.state(target)
    pushed, _ = linear.push(state, {source: v})
    return torch.zeros_like(v) if pushed is None else linear.pull(state, pushed)[source]
