"""What sweeps leave of an error at most, in a block whose gains bound its feedback: in the end, and state by state.

A state l moves by at most ``b_lm`` times what another one m does that it is coupled to, whichever way the coupling
goes: with ``k_lm^2 = (w_m / w_l) |J_lm|^2 sigma_l' sigma_m'``

    b_lm = sqrt(k_lm^2 (w_m sigma_l') / (w_l sigma_m'))

A sweep reads the states that it has passed as they are now and the others as they were: a step of Gauss and Seidel on
``I - b = I - L - U``. It turns errors e into at most ``S e = (I - L)^-1 U e``, in the end into rho(S) of them (Varga
2000, chapter 3). What it has moved tells what is left, since ``e_before <= |moved| + e_after``:

    e_after <= S (|moved| + e_after),      e_after <= (I - S)^-1 S |moved| = (I - b)^-1 U |moved|

The rate rho(S) alone says too little of the first sweeps: a state far larger than its drive from below sends on an
error that its own change hardly shows. The bounds hold for Euclidean norms. With largest magnitudes they are an
estimate, which is right where errors are spread as the changes are that show them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..ir import EnergyBlock

Edge = tuple[str, str]
"""A coupling, by a state and one that reads it."""
Sizes = Mapping[str, float]
"""A length, by state."""


@dataclass(frozen=True)
class Contraction:
    """What is certified of a block's sweeps.

    Attributes:
        states: in forward order.
        loops: ``k_lm^2`` by coupling (l, m), no less than it is.
        bounds: ``b_lm`` by (state, other).
        rate: what one sweep leaves of the distance to the equilibrium in the end, either way.
    """

    states: tuple[str, ...]
    loops: Mapping[Edge, float]
    bounds: Mapping[Edge, float]
    rate: float

    @staticmethod
    def of(block: EnergyBlock, layer_weights: Mapping[str, float], loops: Mapping[Edge, float]) -> Contraction:
        slope = {s.name: s.potential.slope for s in block.states}
        bounds: dict[Edge, float] = {}
        for (l, m), loop in loops.items():
            scale = layer_weights[m] * slope[l] / (layer_weights[l] * slope[m])
            bounds[l, m], bounds[m, l] = math.sqrt(loop * scale), math.sqrt(loop / scale)
        states = tuple(s.name for s in block.states)
        return Contraction(states, dict(loops), bounds, gauss_seidel(_matrix(states, bounds)))

    def left(self, moved: Sizes, forward: bool) -> dict[str, float]:
        """How far each state is off at most after a sweep that has moved them so far."""
        sizes = np.array([moved.get(n, 0.0) for n in self.states])
        return dict(zip(self.states, (self.remainder(forward) @ sizes).tolist(), strict=True))

    def remainder(self, forward: bool) -> NDArray[np.float64]:
        """``(I - b)^-1 U``, in the order of the states."""
        ahead, back = self._remainders
        return ahead if forward else back

    @cached_property
    def _remainders(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        b = _matrix(self.states, self.bounds)
        inverse = np.linalg.inv(np.eye(len(b)) - b)
        return inverse @ np.triu(b, 1), inverse @ np.tril(b, -1)


def gauss_seidel(matrix: NDArray[np.float64]) -> float:
    """The spectral radius of ``(I - L)^-1 U`` of a matrix ``L + U``, L strictly lower."""
    lower = np.tril(matrix, -1)
    return float(np.abs(np.linalg.eigvals(np.linalg.solve(np.eye(len(matrix)) - lower, matrix - lower))).max())


def _matrix(states: tuple[str, ...], bounds: Mapping[Edge, float]) -> NDArray[np.float64]:
    place = {n: i for i, n in enumerate(states)}
    matrix = np.zeros((len(states), len(states)))
    for (l, m), b in bounds.items():
        matrix[place[l], place[m]] = b
    return matrix
