"""Equilibrium propagation (Scellier & Bengio 2017): nudge the block, let it relax, compare.

The nudge is relative to the error: ``strength = beta / max |delta|``. So no output moves by more than beta times its
slope. Displacements are relaxed without cancellation, so beta may be tiny, and by default is; with ``subtract=True``
the two nudged equilibria themselves are relaxed and subtracted, pooling winners free, as a circuit does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError, Problem
from ..solve import (
    AUTOMATIC,
    BoundBlock,
    Differentiation,
    Gradients,
    Linearised,
    Relaxation,
    States,
    Tolerance,
    displace,
)
from ..solve.iteration import peak
from .contrast import contrast
from .estimator import Estimate, FreePhase
from .literal import nudged_equilibrium
from .wide import is_too_narrow, widely

TINY = 1e-8
"""The default nudge: far below any state's distance to a kink, far above the smallest float32."""


def _check_beta(beta: float, name: str) -> None:
    if not (isinstance(beta, (int, float)) and beta > 0 and beta < float("inf")):
        raise OptionError(
            Problem(
                f"option beta of {name}",
                f"is {beta!r}",
                "Give a positive number, such as 0.01; the nudge is beta / max|error|.",
            )
        )


def nudge_strength(errors: Mapping[str, Tensor], beta: float) -> float:
    """beta / max |delta|: zero where there is no error, NaN where the error is no number, as the gradient then is."""
    peaks = [float(peak(e.detach())) for e in errors.values() if e.numel()]
    if not all(map(math.isfinite, peaks)):
        return math.nan
    largest = max(peaks, default=0.0)
    return beta / largest if largest > 0 else 0.0


def default_beta(estimator: CenteredEP | OneSidedEP) -> float:
    """The nudge relative to the largest error that an estimator uses."""
    return estimator.beta or (1e-2 if estimator.subtract else TINY)


def no_gradient(free: FreePhase, wanted: Sequence[str]) -> Estimate:
    _, leaves = free.bound.with_leaves(wanted)
    return Estimate({n: torch.zeros_like(v) for n, v in leaves.items()})


def displaced(
    linear: Linearised,
    errors: Mapping[str, Tensor],
    strength: float,
    tolerance: Tolerance,
    start: Mapping[str, Tensor] | None = None,
) -> tuple[States, Relaxation]:
    """The displacement under one nudge, relaxed from ``start`` if given; none at strength zero, the free phase."""
    assert not is_too_narrow(linear.states), "so small a displacement is zero in float16"
    if strength == 0:
        return {n: torch.zeros_like(v) for n, v in linear.states.items()}, _at_rest(linear)
    return displace(linear, errors, strength, tolerance, start=start)


def _at_rest(linear: Linearised) -> Relaxation:
    return Relaxation(linear.bound.block.name, 0, 0.0, True)


def rate_and_mean(first: States, second: States, span: float) -> tuple[States, States]:
    """D and h of the contrast, from two displacements whose nudges are ``span`` apart."""
    return {n: (v - second[n]) / span for n, v in first.items()}, {n: (v + second[n]) / 2 for n, v in first.items()}


def mirrored(displacement: States) -> States:
    """What the opposite nudge does where no kink lies between, and where its relaxation starts."""
    return {n: -v for n, v in displacement.items()}


def two_phases(
    free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str], first: float, second: float
) -> Estimate:
    """The contrast of the equilibria nudged by ``first`` and ``second`` (one of them may be zero)."""
    linear = free.differentiation.linearise(free.bound, free.states, wanted)
    d1, r1 = displaced(linear, errors, first, free.tolerance)
    d2, r2 = displaced(linear, errors, second, free.tolerance, mirrored(d1) if second == -first else None)
    difference, mean = rate_and_mean(d1, d2, first - second)
    return Estimate(contrast(linear, difference, mean), (r1, r2))


def two_phases_subtracted(
    free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str], first: float, second: float
) -> Estimate:
    """The same from two states, ``(dE/dtheta(s1) - dE/dtheta(s2)) / (beta1 - beta2)``, literally."""
    found: list[tuple[States, Relaxation | None]] = [
        nudged_equilibrium(free, errors, b) if b != 0 else (free.states, None) for b in (first, second)
    ]
    (s1, _), (s2, _) = found
    g1, g2 = (energy_gradients(free.bound, s, wanted, free.differentiation) for s in (s1, s2))
    return Estimate({n: (g1[n] - g2[n]) / (first - second) for n in g1}, tuple(r for _, r in found if r is not None))


def energy_gradients(
    bound: BoundBlock,
    states: Mapping[str, Tensor],
    wanted: Sequence[str],
    differentiation: Differentiation = AUTOMATIC,
) -> Gradients:
    """``dE/dtheta = - sum_m w_m <s_m, df_m/dtheta>`` at the given states."""
    return {n: -g for n, g in differentiation.interaction_gradients(bound, states, wanted).items()}


@dataclass(frozen=True)
class CenteredEP:
    """``[dE/dtheta(s(+beta)) - dE/dtheta(s(-beta))] / (2 beta)`` (Laborieux et al. 2021); the error is O(beta^2).

    Where a pre-activation stands exactly on a kink, the two nudges see its two slopes.
    The gradient is then that of their mean, whatever the nudge: :class:`TangentEP` has the one that torch takes.

    Attributes:
        beta: the nudge relative to the largest error; None means 1e-8, or 1e-2 with ``subtract``.
        subtract: relax and subtract the two nudged states, as a circuit does.
    """

    beta: float | None = None
    subtract: bool = False

    def __post_init__(self) -> None:
        if self.beta is not None:
            _check_beta(self.beta, "CenteredEP")

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        if is_too_narrow(free.states):
            return widely(self, free, errors, wanted)
        strength = nudge_strength(errors, default_beta(self))
        if strength == 0:
            return no_gradient(free, wanted)
        return (two_phases_subtracted if self.subtract else two_phases)(free, errors, wanted, strength, -strength)


@dataclass(frozen=True)
class OneSidedEP:
    """``[dE/dtheta(s(beta)) - dE/dtheta(s*)] / beta`` for a nudge of either sign; the error is O(beta).

    Where a pre-activation stands exactly on a kink, the gradient is that of the slope on the nudge's side.

    Attributes:
        beta: the nudge relative to the largest error; None means 1e-8, or 1e-2 with ``subtract``.
        sign: +1 or -1.
        subtract: relax and subtract the states, as a circuit does.
    """

    beta: float | None = None
    sign: int = 1
    subtract: bool = False

    def __post_init__(self) -> None:
        if self.beta is not None:
            _check_beta(self.beta, "OneSidedEP")
        if self.sign not in (1, -1):
            raise OptionError(Problem("option sign of OneSidedEP", f"is {self.sign!r}", "Give +1 or -1."))

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        if is_too_narrow(free.states):
            return widely(self, free, errors, wanted)
        strength = nudge_strength(errors, default_beta(self)) * self.sign
        if strength == 0:
            return no_gradient(free, wanted)
        return (two_phases_subtracted if self.subtract else two_phases)(free, errors, wanted, strength, 0.0)


@dataclass(frozen=True)
class TangentEP:
    """The limit beta -> 0: the tangent (forward-mode) equation of the equilibrium, relaxed like a nudged phase."""

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        if is_too_narrow(free.states):
            return widely(self, free, errors, wanted)
        strength = tangent_strength(errors)
        if strength == 0:
            return no_gradient(free, wanted)
        linear = free.differentiation.linearise(free.bound, free.states, wanted)
        d, record = tangent_displaced(linear, errors, strength, free.tolerance)
        return Estimate(tangent_contrast(linear, d, strength), (record,))


def tangent_strength(errors: Mapping[str, Tensor]) -> float:
    """The nudge that a displacement is relaxed for that is linear in it.

    At -1 the contrast gives the gradient without a factor.
    """
    strength = nudge_strength(errors, 1.0)
    return strength if strength == 0 or not math.isfinite(strength) else -1.0


def tangent_displaced(
    linear: Linearised, errors: Mapping[str, Tensor], strength: float, tolerance: Tolerance
) -> tuple[States, Relaxation]:
    """``strength`` times the displacement per nudge, in the limit of a vanishing one."""
    assert not is_too_narrow(linear.states), "so small a displacement is zero in float16"
    if strength == 0:
        return {n: torch.zeros_like(v) for n, v in linear.states.items()}, _at_rest(linear)
    return displace(linear, errors, strength, tolerance, tangent=True)


def tangent_contrast(linear: Linearised, displacement: States, strength: float) -> Gradients:
    """The gradient from the displacement under a vanishing nudge, times ``strength``."""
    return contrast(linear, displacement, {}, 1 / strength)


__all__ = ["CenteredEP", "OneSidedEP", "TangentEP", "Tolerance"]
