"""The one relaxation loop: sweeps until the estimated error is within the tolerance.

The residual of a sweep is the largest relative change of a state,

    r = max_l |s_l' - s_l|_inf / |s_l'|_inf,

and the distance to what the sweeps converge to is estimated as ``r * rho / (1 - rho)``, with rho the measured contraction,
the ratio of the last two residuals, and no less than the one that the gains certify. Roundings end in a fixed point, or in
going back and forth between two, which is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .over_relaxation import Pace

STALLED, PATIENCE = 0.98, 2
"""The winners of maxima are held once so many sweeps on end have not brought the residual below this part of its lowest."""

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
    contraction: float | None = None,
    soonest: int = 2,
    from_zero: bool = False,
    pace: Pace | None = None,
    slow: float = math.inf,
) -> Relaxation:
    """Sweeps until the estimated error is within the tolerance.

    Args:
        sweep: advances by one sweep and returns (new, change) of each state.
        until_stalled: give up as soon as the residual no longer falls.
        contraction: what a sweep leaves of the error in the end, where that is certified.
        soonest: the first sweep that may be the last.
        from_zero: what is relaxed begins at zero, so the first residual is 1 and need not be looked at.
        pace: how far the sweeps go; it is told every residual.
        slow: give up once sweeps leave more than this of the residual, if more than some are still needed.
    """
    sweeps, changes = 0, dict[str, tuple[Tensor, Tensor]]()

    def step() -> float:
        nonlocal sweeps, changes
        changes, sweeps = dict(sweep()), sweeps + 1
        return 1.0 if sweeps == 1 and from_zero and changes else largest_ratio(peaks(changes))

    repeating = _Repeating(lambda: {n: new for n, (new, _) in changes.items()})
    floor = least_factor(contraction)
    return advance(name, step, tolerance, max_sweeps, until_stalled, floor, soonest, pace, slow, repeating)


def least_factor(contraction: float | None) -> float:
    """The least part of a residual that the error is estimated as."""
    return FASTEST if contraction is None else contraction / (1 - contraction)


def advance(
    name: str,
    step: Callable[[], float],
    tolerance: float,
    max_sweeps: int,
    until_stalled: bool = False,
    floor: float = FASTEST,
    soonest: int = 2,
    pace: Pace | None = None,
    slow: float = math.inf,
    stalled: Callable[[float], float] = lambda residual: BEYOND * residual,
) -> Relaxation:
    """The one relaxation loop, of steps that tell their residual.

    Args:
        soonest: the first step that may be the last.
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
        if residual == 0 or (k >= soonest and error <= tolerance):
            return Relaxation(name, k, error, True)
        if k > 1 and rho > slow and error * rho**SOME > tolerance:
            return Relaxation(name, k, error, False)
        if until_stalled and stalls == PATIENCE:
            if not pace.brake():
                return Relaxation(name, k, error, False)
            lowest, stalls = residual, 0
    return Relaxation(name, max_sweeps, error, False)


class _Repeating:
    """The estimated error where residuals do not fall: one rounding where sweeps lead back to states that they left by less than that.

    They have then come as close as the type can tell, as when they change nothing any more.
    """

    def __init__(self, states: Callable[[], dict[str, Tensor]]) -> None:
        self._states = states
        self._before: list[dict[str, Tensor]] = []

    def __call__(self, residual: float) -> float:
        states = self._states()
        rounding = max((torch.finfo(s.dtype).eps for s in states.values()), default=0.0)
        if residual > rounding:
            return BEYOND * residual
        if any(all(torch.equal(v, before[n]) for n, v in states.items()) for before in self._before):
            return rounding
        self._before = [*self._before[1 - PERIOD :], {n: v.clone() for n, v in states.items()}]
        return BEYOND * residual


def peak(t: Tensor) -> Tensor:
    """The largest magnitude, in one pass over the memory."""
    return torch.stack(torch.aminmax(t)).abs().amax()


def peaks(changes: Mapping[str, tuple[Tensor, Tensor]]) -> list[tuple[float, float]]:
    """The largest magnitudes of each state and of its change, in one transfer from the device; none of states without
    elements."""
    ends = [end for pair in changes.values() if pair[0].numel() for t in pair for end in torch.aminmax(t)]
    found = torch.stack(ends).cpu().tolist() if ends else []
    magnitudes = [max(abs(a), abs(b)) for a, b in zip(found[::2], found[1::2], strict=True)]
    return list(zip(magnitudes[::2], magnitudes[1::2], strict=True))


def largest_ratio(peaks: Iterable[tuple[float, float]]) -> float:
    """The largest ratio of a state's change to the state, of the peaks of both; infinite where a state has left all bounds or is no number."""
    ratios = [0.0]
    for scale, moved in peaks:
        ratio = moved / max(scale, TINY) if scale > 0 else 0.0
        ratios.append(ratio if scale < DIVERGED and not math.isnan(moved) else math.inf)
    return max(ratios)
