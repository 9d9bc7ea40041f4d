"""The one relaxation loop: sweeps until the estimated error is within the tolerance.

The residual of a sweep is the largest relative change of a state,

    r = max_l |s_l' - s_l|_inf / |s_l'|_inf,

and the distance to what the sweeps converge to is estimated as ``r * rho / (1 - rho)``, with rho the measured
contraction. Where the gains certify a contraction (:mod:`.contraction`) it is no less than its rate times r. In the
sweeps that an error takes to pass all states it is also no less than what the change of each state bounds; one sweep
less is then enough. Roundings end in a fixed point, or go back and forth between two, which is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .contraction import Contraction
from .over_relaxation import Pace

STALLED, PATIENCE = 0.98, 2
"""Winners of maxima are held once so many sweeps on end have not brought the residual below this part of its lowest."""

SOME = 3
"""Sweeps that are worth waiting for."""

FASTEST = 0.05
"""The least contraction that a measurement from two sweeps is trusted with."""

BEYOND = 1e3
"""So many residuals is the distance taken to be where residuals do not fall."""

PERIOD = 2
"""The sweeps that roundings take to come back, at most."""

TINY = 1e-38
"""No state is smaller, in the ratio of its change to it."""

DIVERGED = 1e30
"""A state beyond this is on its way to infinity."""


def no_bound(sweeps: int) -> float:
    """Where nothing is certified."""
    return 0.0


@dataclass(frozen=True)
class Relaxation:
    """How a relaxation ended.

    Attributes:
        block: the block's name.
        sweeps: the sweeps it took.
        residual: the estimated relative distance to the equilibrium.
        converged: whether that is within the tolerance.
        held: whether the winners of maxima were held: from the start, or once they had gone back and forth.
    """

    block: str
    sweeps: int
    residual: float
    converged: bool
    held: bool = False


def iterate(
    name: str,
    sweep: Callable[[], Mapping[str, tuple[Tensor, Tensor]]],
    tolerance: float,
    max_sweeps: int,
    until_stalled: bool = False,
    contraction: Contraction | None = None,
    from_zero: bool = False,
    pace: Pace | None = None,
    slow: float = math.inf,
    forward: bool = True,
) -> Relaxation:
    """Sweeps until the estimated error is within the tolerance.

    Args:
        sweep: advances by one sweep and returns (new, change) of each state.
        until_stalled: give up as soon as the residual no longer falls.
        contraction: what a sweep leaves of the error at most, where that is certified; one sweep may then be enough.
        from_zero: what is relaxed begins at zero, so the first residual is 1 and need not be looked at.
        pace: how far the sweeps go; it is told every residual.
        slow: give up once sweeps leave more than this of the residual, if more than some are still needed.
        forward: whether sweeps go from the inputs to the outputs, or back.
    """
    sweeps, residual, last = 0, 1.0, Last({}, {})

    def step() -> float:
        nonlocal sweeps, residual, last
        changes, sweeps = sweep(), sweeps + 1
        if sweeps == 1 and from_zero and changes:
            return 1.0
        # where this may be the last sweep, what its bound needs comes in the same transfer
        ends = contraction is not None and contraction.rate**2 * residual <= tolerance
        last = Last(changes, *(sizes(changes) if ends and sweeps < len(changes) else (peaks(changes), None)))
        residual = largest_ratio(last.peaks.values())
        return residual

    sure = contraction is not None and not from_zero
    floor = FASTEST if contraction is None else contraction.rate
    bound = no_bound if contraction is None else bound_of(contraction, forward, lambda: last)
    stalled = _Repeating(lambda: last)
    return advance(name, step, tolerance, max_sweeps, until_stalled, floor, sure, pace, slow, bound, stalled=stalled)


def advance(
    name: str,
    step: Callable[[], float],
    tolerance: float,
    max_sweeps: int,
    until_stalled: bool = False,
    floor: float = FASTEST,
    sure: bool = False,
    pace: Pace | None = None,
    slow: float = math.inf,
    bound: Callable[[int], float] = no_bound,
    stalled: Callable[[float], float] = lambda residual: BEYOND * residual,
) -> Relaxation:
    """The one relaxation loop, of steps that tell their residual.

    Args:
        sure: whether it may end at the first one.
        bound: what the error may be after so many, however small the residual; asked once the estimate is within.
        stalled: the estimated error where the residual does not fall.
    """
    pace = Pace(limit=1.0) if pace is None else pace
    lowest, error, stalls = math.inf, math.inf, 0
    for k in range(1, max_sweeps + 1):
        residual = step()
        if not math.isfinite(residual):
            return Relaxation(name, k, math.inf, False)
        rho = pace.after(residual)
        stalls = (
            0 if residual < STALLED * lowest else stalls + 1
        )  # against the lowest: a cycle of winners may be longer than one sweep
        lowest = min(lowest, residual)
        error = residual * max(floor, rho / (1 - rho)) if rho < 1 else stalled(residual)
        if (sure or k > 1) and error <= tolerance:
            error = max(error, bound(k))
        if residual == 0 or ((sure or k > 1) and error <= tolerance):
            return Relaxation(name, k, error, True)
        if k > 1 and rho > slow and error * rho**SOME > tolerance:
            return Relaxation(name, k, error, False)
        if until_stalled and stalls == PATIENCE:
            if not pace.brake():
                return Relaxation(name, k, error, False)
            lowest, stalls = residual, 0
    return Relaxation(name, max_sweeps, error, False)


class Last(NamedTuple):
    """The last sweep.

    Attributes:
        changes: (new, change) of each state.
        peaks: their largest magnitudes.
        known_lengths: their Euclidean norms, where these are known.
    """

    changes: Mapping[str, tuple[Tensor, Tensor]]
    peaks: Mapping[str, tuple[float, float]]
    known_lengths: Mapping[str, tuple[float, float]] | None = None

    @property
    def lengths(self) -> Mapping[str, tuple[float, float]]:
        return lengths(self.changes) if self.known_lengths is None else self.known_lengths


class _Repeating:
    """The estimated error where residuals do not fall: a rounding if sweeps lead back to states that they left by less.

    They have then come as close as the type can tell, as when they change nothing any more.
    """

    def __init__(self, last: Callable[[], Last]) -> None:
        self._last = last
        self._before: list[dict[str, Tensor]] = []

    def __call__(self, residual: float) -> float:
        states = {n: new for n, (new, _) in self._last().changes.items()}
        rounding = max((torch.finfo(s.dtype).eps for s in states.values()), default=0.0)
        if residual > rounding:
            return BEYOND * residual
        if any(all(torch.equal(v, before[n]) for n, v in states.items()) for before in self._before):
            return rounding
        self._before = [*self._before[1 - PERIOD :], {n: v.clone() for n, v in states.items()}]
        return BEYOND * residual


def bound_of(contraction: Contraction, forward: bool, last: Callable[[], Last]) -> Callable[[int], float]:
    """The largest part of a state that it may be off by, until an error has had the sweeps to pass all states."""

    def bound(sweeps: int) -> float:
        if sweeps >= len(contraction.states):
            return 0.0
        return max(largest_part(contraction, sizes, forward) for sizes in (last().peaks, last().lengths))

    return bound


def largest_part(contraction: Contraction, sizes: Mapping[str, tuple[float, float]], forward: bool) -> float:
    """By the sizes of each state and of its change, in one norm."""
    off = contraction.left({n: moved for n, (_, moved) in sizes.items()}, forward)
    return largest_ratio((size, off[n]) for n, (size, _) in sizes.items())


def sizes(
    changes: Mapping[str, tuple[Tensor, Tensor]],
) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """Largest magnitudes and Euclidean norms of each state and of its change, in one transfer from the device."""
    pairs = {n: pair for n, pair in changes.items() if pair[0].numel()}
    if not pairs:
        return {}, {}
    ends, norms = _ends(pairs), _norms(pairs)
    found = torch.cat([torch.stack(ends).to(norms[0].dtype), torch.stack(norms)]).cpu().tolist()
    return _by_peaks(pairs, found[: len(ends)]), _by_twos(pairs, found[len(ends) :])


def lengths(changes: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[float, float]]:
    """The Euclidean norms of each state and of its change, in one transfer from the device."""
    pairs = {n: pair for n, pair in changes.items() if pair[0].numel()}
    return _by_twos(pairs, torch.stack(_norms(pairs)).cpu().tolist() if pairs else [])


def peak(t: Tensor) -> Tensor:
    """The largest magnitude, in one pass over the memory."""
    return torch.stack(torch.aminmax(t)).abs().amax()


def peaks(changes: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[float, float]]:
    """Largest magnitudes of each state and of its change, in one transfer; none of states without elements."""
    pairs = {n: pair for n, pair in changes.items() if pair[0].numel()}
    return _by_peaks(pairs, torch.stack(_ends(pairs)).cpu().tolist() if pairs else [])


def _norms(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [
        torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32))
        for pair in pairs.values()
        for t in pair
    ]


def _ends(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [end for pair in pairs.values() for t in pair for end in torch.aminmax(t)]


def _by_peaks(names: Iterable[str], ends: Sequence[float]) -> dict[str, tuple[float, float]]:
    magnitudes = [max(abs(a), abs(b)) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    return _by_twos(names, magnitudes)


def _by_twos(names: Iterable[str], found: Sequence[float]) -> dict[str, tuple[float, float]]:
    return dict(zip(names, zip(found[::2], found[1::2], strict=True), strict=True))


def largest_ratio(peaks: Iterable[tuple[float, float]]) -> float:
    """The largest ratio of a change's peak to its state's; infinite where a state is no number or beyond all bounds."""
    ratios = [0.0]
    for scale, moved in peaks:
        ratio = moved / max(scale, TINY) if scale > 0 else 0.0
        ratios.append(ratio if scale < DIVERGED and not math.isnan(moved) else math.inf)
    return max(ratios)
