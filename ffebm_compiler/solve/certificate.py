"""What the gains of a block certify: one equilibrium, and how fast sweeps find it.

With ``k_lm = sqrt(g_lm slope_l slope_m) |J_lm|`` the energy's Hessian is, after scaling, at least ``I - K`` for the
symmetric matrix K of the k_lm. So an eigenvalue of K below 1 makes the energy strictly convex: there is one equilibrium,
and coordinate descent finds it. For a chain of any length, loop gains below 1/4 suffice.

A sweep reads the states that it has passed as they are now and the others as they were: a step of Gauss and Seidel on
``I - K = I - L - U``. In the end it leaves the spectral radius of ``(I - L)^-1 U`` of the distance to the equilibrium,
either way (Varga 2000, chapter 3): in a chain the square of K's largest eigenvalue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ir import EnergyBlock
from .binding import Edge
from .loop_gain import Gains

SURE = 0.95
"""A coupling is certified below this: the norms are estimates from below (:mod:`.lanczos`)."""


@dataclass(frozen=True)
class Certificate:
    """Whether a block's energy is strictly convex.

    Attributes:
        coupling: the largest eigenvalue of K; below 1 the energy is strictly convex.
        loop_gain: the largest loop gain of a coupling.
        convex: the verdict; False where it is not known, and where it holds for each choice of pooling winners alone.
        reason: the verdict in words.
    """

    coupling: float
    loop_gain: float
    convex: bool
    reason: str


def certify(block: EnergyBlock, gains: Gains) -> Certificate:
    """The convexity certificate of a block with these gains."""
    if not block.has_feedback:
        return Certificate(0.0, 0.0, True, "no feedback: the equilibrium is the feedforward pass")
    if not gains.norms:
        reason = "not known: coupling norms are measured with a bounded loop gain only"
        return Certificate(math.nan, math.nan, False, reason)
    largest = _largest(_couplings(block, gains))
    convex, reason = _verdict(block, largest)
    when = ", at the weights before the last change" if gains.outdated and largest < SURE else ""
    return Certificate(largest, max(_loops(gains).values()), convex, reason + when)


def _verdict(block: EnergyBlock, largest: float) -> tuple[bool, str]:
    """Whether the energy is strictly convex, and why."""
    if any(not s.drive.is_linear for s in block.states):
        return False, "none: a smooth activation inside the interaction adds curvature of either sign"
    if largest >= 1:
        return False, f"none: coupling {largest:.3g} >= 1, so several equilibria are possible"
    if largest >= SURE:
        return False, f"none: coupling {largest:.3g} is below 1 by less than its norms may be underestimated"
    if block.is_routed:
        choices = "convex for each choice of pooling winners only, between which several equilibria are possible"
        return False, f"{choices}: coupling {largest:.3g} < 1"
    return True, f"strictly convex: coupling {largest:.3g} < 1"


def contraction_of(block: EnergyBlock, gains: Gains) -> float | None:
    """What a sweep leaves of the distance to the equilibrium in the end; None where the gains certify nothing.

    The norms being estimates from below, K is taken as ``K / SURE``.
    """
    if not (block.has_feedback and gains.norms) or any(not s.drive.is_linear for s in block.states):
        return None
    couplings = _couplings(block, gains) / SURE
    return gauss_seidel(couplings) if _largest(couplings) < SURE else None


def gauss_seidel(matrix: NDArray[np.float64]) -> float:
    """The spectral radius of ``(I - L)^-1 U`` of a symmetric matrix ``L + U`` without a diagonal, L strictly lower."""
    lower = np.tril(matrix)
    return float(np.abs(np.linalg.eigvals(np.linalg.solve(np.eye(len(lower)) - lower, lower.T))).max())


def _couplings(block: EnergyBlock, gains: Gains) -> NDArray[np.float64]:
    """K, in the order of the states."""
    place = {s.name: i for i, s in enumerate(block.states)}
    slope = {s.name: s.potential.slope for s in block.states}
    matrix = np.zeros((len(place), len(place)))
    for (l, m), loop in _loops(gains).items():
        matrix[place[l], place[m]] = matrix[place[m], place[l]] = math.sqrt(loop * slope[l] * slope[m])
    return matrix


def _loops(gains: Gains) -> dict[Edge, float]:
    """``g_lm |J_lm|^2`` of every coupling."""
    w = gains.layer_weights
    return {(l, m): w[m] / w[l] * norm**2 for (l, m), norm in gains.norms.items()}


def _largest(matrix: NDArray[np.float64]) -> float:
    """Its largest eigenvalue; infinite where a coupling has no bounds."""
    return float(np.linalg.eigvalsh(matrix)[-1]) if np.isfinite(matrix).all() else math.inf
