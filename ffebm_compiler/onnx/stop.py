"""When a relaxation stops, as arithmetic on the scalars of an ONNX ``Loop``: the executor's ``iterate``, step by step.

With the residual r_k of sweep k, ``rho = r_k / r_(k-1)`` and the error estimated as
``r_k max(FASTEST, rho / (1 - rho))``, or more where the change of each state bounds it by more, a relaxation ends once
the error is within the tolerance, a state is no longer finite, the most sweeps are done or, where winners of maxima
follow the states, the residual has stalled. The scalars are doubles, as Python's numbers: both stop at the same sweep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..solve import Contraction
from ..solve.iteration import DIVERGED, FASTEST, PATIENCE, STALLED


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
        stalled, fastest: as in the executor; ``fastest`` is the contraction where the gains certify one.
        certified: whether they do, so that a first sweep may be enough.
        remainder: a matrix (states, states): how far each is off at most after a sweep that has changed them so far;
            zero where nothing is certified.
    """

    tolerance: Tensor
    max_sweeps: Tensor
    stalled: Tensor
    fastest: Tensor
    certified: Tensor
    remainder: Tensor

    @staticmethod
    def of(tolerance: float, max_sweeps: int, contraction: Contraction | None = None, states: int = 1) -> Stop:
        least = FASTEST if contraction is None else contraction.rate
        numbers = (torch.tensor(v, dtype=torch.float64) for v in (tolerance, STALLED, least))
        limit, stalled, fastest = numbers
        remainder = torch.zeros(states, states, dtype=torch.float64)
        if contraction is not None:
            remainder = torch.from_numpy(contraction.remainder(forward=True).copy())
        return Stop(limit, torch.tensor(max_sweeps), stalled, fastest, torch.tensor(contraction is not None), remainder)


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


def advance(before: Progress, change: Change, stop: Stop, until_stalled: bool) -> Progress:
    """After one more sweep with this change.

    Args:
        until_stalled: whether to give up as soon as the residual no longer falls.
    """
    sweeps, residual = before.sweeps + 1, change.residual
    finite = is_finite(residual)
    known = (before.previous > 0) & is_finite(before.previous)
    rho = torch.where(known, residual / before.previous, before.rho)
    stalls = torch.where(residual < before.lowest * stop.stalled, whole(0), before.stalls + 1)
    estimated = residual * torch.where(rho < 1, torch.maximum(rho / (1 - rho), stop.fastest), 1e3)
    asked = (estimated <= stop.tolerance) & (sweeps < len(change.scale))
    error = torch.where(asked, torch.maximum(estimated, change.bound(stop.remainder)), estimated)
    error = torch.where(finite, error, infinity())
    converged = finite & ((residual == 0) | (((sweeps > 1) | stop.certified) & (error <= stop.tolerance)))
    running = finite & ~converged & (sweeps < stop.max_sweeps)
    if until_stalled:
        running = running & (stalls != PATIENCE)
    return Progress(running, sweeps, error, converged, residual, torch.minimum(before.lowest, residual), rho, stalls)


def is_finite(value: Tensor) -> Tensor:
    """Of what is not negative: false for infinity and for what is no number."""
    return value < infinity()


class Change(NamedTuple):
    """What a sweep has done, a number a state.

    Attributes:
        scale: the largest magnitudes of the states; infinite of one that has left all bounds or is no number.
        moved: those of their changes.
        length, distance: the Euclidean norms of both; the same again where nothing is certified and nobody asks.
    """

    scale: Tensor
    moved: Tensor
    length: Tensor
    distance: Tensor

    @staticmethod
    def between(before: Mapping[str, Tensor], after: Mapping[str, Tensor], certified: bool = True) -> Change:
        sizes = [s.abs().float() for s in after.values()]
        moves = [(s - before[n]).abs().float() for n, s in after.items()]
        scale = torch.stack([_peak(torch.where(size < DIVERGED, size, torch.inf)) for size in sizes])
        moved = torch.stack([*map(_peak, moves)])
        if not certified:
            return Change(scale, moved, scale, moved)
        return Change(scale, moved, *(torch.stack([t.square().sum().sqrt() for t in ts]) for ts in (sizes, moves)))

    @property
    def residual(self) -> Tensor:
        """The largest relative change of a state: ``max_l |s_l' - s_l|_inf / |s_l'|_inf``."""
        return _largest(self.scale, self.moved).double()

    def bound(self, remainder: Tensor) -> Tensor:
        """The largest part of a state that it may be off by."""
        pairs = ((self.scale, self.moved), (self.length, self.distance))
        by_peaks, by_lengths = (_largest(size, _times(remainder, moved)) for size, moved in pairs)
        return torch.maximum(by_peaks, by_lengths)


def _times(matrix: Tensor, values: Tensor) -> Tensor:
    return (matrix * torch.where(values < torch.inf, values, 0.0).double()).sum(1)


def _largest(sizes: Tensor, parts: Tensor) -> Tensor:
    relative = torch.where(sizes > 0, parts / sizes.clamp(min=1e-38), 0.0)
    return torch.where(sizes < DIVERGED, relative, torch.inf).amax(0)


def _peak(size: Tensor) -> Tensor:
    return size.amax(list(range(size.dim())))
