"""When a relaxation stops, as arithmetic on the scalars of an ONNX ``Loop``: the executor's ``iterate``, step by step.

With the residual r_k of sweep k and ``rho = r_k / r_(k-1)`` the error is estimated as
``r_k max(fastest, rho / (1 - rho))``. A relaxation ends once that is within the tolerance, a state is no longer finite,
the most sweeps are done or, where winners of maxima follow the states, the residual has stalled. The scalars are
doubles, as Python's numbers: both stop at the same sweep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..solve.iteration import BEYOND, DIVERGED, PATIENCE, STALLED, TINY, least_factor


class Progress(NamedTuple):
    """Where a relaxation is; every field a scalar tensor.

    Attributes:
        running: whether another sweep follows.
        sweeps: how many are done.
        error: the estimated relative distance to the equilibrium.
        converged: whether that is within the tolerance.
        previous: the residual of the last sweep.
        lowest: the lowest residual so far.
        rho: the measured contraction.
        stalls: sweeps on end that have not brought the residual below its lowest.
    """

    running: Tensor
    sweeps: Tensor
    error: Tensor
    converged: Tensor
    previous: Tensor
    lowest: Tensor
    rho: Tensor
    stalls: Tensor


class Stop(NamedTuple):
    """When to stop; every field a scalar tensor, as a graph's own numbers are rounded to float32.

    Attributes:
        tolerance: of the error.
        max_sweeps: the most sweeps.
        stalled: as in the executor.
        fastest: the least part of a residual that the error is estimated as.
        soonest: the first sweep that may be the last.
    """

    tolerance: Tensor
    max_sweeps: Tensor
    stalled: Tensor
    fastest: Tensor
    soonest: Tensor

    @staticmethod
    def of(tolerance: float, max_sweeps: int, contraction: float | None = None, soonest: int = 2) -> Stop:
        limit, stalled, fastest = (
            torch.tensor(v, dtype=torch.float64) for v in (tolerance, STALLED, least_factor(contraction))
        )
        return Stop(limit, torch.tensor(max_sweeps), stalled, fastest, torch.tensor(soonest))


def whole(value: int) -> Tensor:
    return torch.full((), value, dtype=torch.int64)


def infinity() -> Tensor:
    return torch.full((), math.inf, dtype=torch.float64)


def zero() -> Tensor:
    return torch.full((), 0.0, dtype=torch.float64)


def begin(running: Tensor | None = None) -> Progress:
    """Before the first sweep.

    Args:
        running: whether there is one.
    """
    yes = torch.ones((), dtype=torch.bool) if running is None else running
    no = torch.zeros((), dtype=torch.bool)
    # a tensor each: a loop changes each by itself
    return Progress(yes, whole(0), infinity(), no, infinity(), infinity(), zero(), whole(0))


def advance(before: Progress, residual: Tensor, stop: Stop, until_stalled: bool) -> Progress:
    """After one more sweep with this residual.

    Args:
        until_stalled: whether to give up as soon as the residual no longer falls.
    """
    sweeps, finite = before.sweeps + 1, is_finite(residual)
    known = (before.previous > 0) & is_finite(before.previous)
    rho = torch.where(known, residual / before.previous, before.rho)
    stalls = torch.where(residual < before.lowest * stop.stalled, whole(0), before.stalls + 1)
    estimated = residual * torch.where(rho < 1, torch.maximum(rho / (1 - rho), stop.fastest), BEYOND)
    error = torch.where(finite, estimated, infinity())
    converged = finite & ((residual == 0) | ((sweeps >= stop.soonest) & (error <= stop.tolerance)))
    running = finite & ~converged & (sweeps < stop.max_sweeps)
    if until_stalled:
        running = running & (stalls != PATIENCE)
    return Progress(running, sweeps, error, converged, residual, torch.minimum(before.lowest, residual), rho, stalls)


def is_finite(value: Tensor) -> Tensor:
    """Of what is not negative: false for infinity and for what is no number."""
    return value < infinity()


def residual_of(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
    """The largest relative change of a state, ``max_l |s_l' - s_l|_inf / |s_l'|_inf``.

    Infinite where a state has left all bounds or is no number, which onnxruntime's maximum overlooks.
    """
    sizes = [s.abs().float() for s in after.values()]
    scale = torch.stack([_peak(torch.where(size < DIVERGED, size, torch.inf)) for size in sizes])
    moved = torch.stack([_peak((s - before[n]).abs().float()) for n, s in after.items()])
    relative = torch.where(scale > 0, moved / scale.clamp(min=TINY), 0.0)
    return torch.where(scale < DIVERGED, relative, torch.inf).amax(0).double()


def _peak(size: Tensor) -> Tensor:
    return size.amax(list(range(size.dim())))
