"""Over-relaxation: how far a sweep goes beyond the minimum.

    s  <-  P( s + omega (s_new - s) ),        P the projection on the potential's domain

With ``rho`` what a plain sweep leaves of the distance to the equilibrium, ``omega`` what is used and ``lambda`` what its
sweeps leave,

    (lambda + omega - 1)^2 = lambda omega^2 rho,        and     omega = 2 / (1 + sqrt(1 - rho))

leaves least, ``omega - 1``: the first gives rho from measured residuals at any omega, the second the next omega. Exact
for a linear chain (Young 1971, chapter 5; Hageman & Young 1981, chapter 9), where a plain sweep that leaves 0.9 becomes
one that leaves 0.52. For any omega below 2 the energy of a piecewise linear block still falls with every sweep.

Past the best omega residuals fall in waves, and no longer tell how far past: omega is lowered while sweeps leave no
more than ``omega - 1``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import networkx as nx
import torch
from torch import Tensor

from ..ir import Potential

WORTH = 0.3
"""A plain sweep that leaves less than this of the distance is left as it is."""

MOST, MOST_IN_RINGS = 1.8, 1.35
"""The largest omega: one too large costs more than one too small, the more so near 2. Rings of an odd number of states
follow the theory less closely."""

WINDOW, WAIT = 4, 2
"""Over-relaxed residuals fall in waves: so many ratios tell what sweeps leave, and omega stays for so many at least."""

STEP, RISE = 0.02, 0.25
"""Omega is raised by no less, since the sweep at which it changes tells nothing, and by no more at once: the first ratios
are those of states that still change sides."""

LOWERED, EQUAL = 0.9, 1.05
"""Beyond the best omega sweeps leave ``omega - 1``. Where they leave so much, up to the second factor, ``omega - 1`` is
multiplied by the first, and omega is raised no more."""

LOST = 4.0
"""After ``LOST / (2 - omega)`` sweeps without a new lowest residual, longer than its waves, omega is 1 for good."""


class Pace:
    """Omega, from the residuals of the sweeps so far.

    Args:
        limit: the largest omega; 1 for plain sweeps.
        patience: how many ratios of residuals to see before the first step beyond 1.
        window: how many of the last ratios tell what plain sweeps leave.
    """

    def __init__(self, limit: float = MOST, patience: int = 1, window: int = 1):
        self.omega, self._limit, self._patience, self._window = 1.0, limit, patience, window
        self._used = 1.0  # by the last sweep
        self._previous, self._lowest = math.inf, math.inf
        self._rates: list[float] = []
        self._seen, self._since = 0, 0  # ratios since omega changed, sweeps since the lowest residual
        self._known = 0.0  # what plain sweeps leave, once omega has told it

    def after(self, residual: float) -> float:
        """Takes in the residual of a sweep; gives what such a sweep leaves of the distance, as measured from the last
        ones."""
        if 0 < self._previous < math.inf:
            self._rates = [*self._rates[1 - WINDOW :], residual / self._previous]
            self._seen += 1
        self._previous, self._used = residual, self.omega
        if not self._rates:
            return 0.0
        rates = self._rates[-(WINDOW if self.omega > 1.0 else self._window) :]
        left = math.prod(rates) ** (1 / len(rates))
        leaves = max(left, self.omega - 1, self._known)
        if self._limit > 1.0:
            self._adapt(residual, left)
        return leaves

    def brake(self) -> bool:
        """Back to plain sweeps for good; False if they have been plain."""
        if self.omega > 1.0:
            self._known = contraction_of(self.omega)
        self._change(1.0)
        self._limit = 1.0
        return self._used > 1.0

    def _adapt(self, residual: float, left: float) -> None:
        """Up where sweeps leave more than at the best omega, down where they may be beyond it."""
        self._since = 0 if residual < self._lowest else self._since + 1
        self._lowest = min(self._lowest, residual)
        beyond = self.omega - 1
        if beyond and self._since > LOST / (2 - self.omega):
            self.brake()
        elif self._seen < (WAIT if beyond else self._patience) or not self._falling:
            return
        elif beyond and left < EQUAL * beyond:
            self._limit = 1 + LOWERED * beyond
            self._change(self._limit)
        elif left > (beyond or WORTH):
            better = min(best_omega(plain_contraction(left, self.omega)), self._limit, self.omega + RISE)
            if better > self.omega + STEP:
                self._change(better)

    @property
    def _falling(self) -> bool:
        """Every plain sweep, of as many as it takes; over-relaxed ones on the whole."""
        return max(self._rates[-self._patience :]) < 1.0 if self.omega == 1.0 else math.prod(self._rates) < 1.0

    def _change(self, omega: float) -> None:
        self.omega, self._seen, self._since = omega, -1, 0


@lru_cache(maxsize=512)
def limit_of(edges: tuple[tuple[str, str], ...]) -> float:
    """The largest omega for states that are joined so."""
    return MOST if nx.is_bipartite(nx.Graph(edges)) else MOST_IN_RINGS


def plain_contraction(left: float, omega: float) -> float:
    """rho of a plain sweep, where sweeps at omega leave ``left``."""
    return min((left + omega - 1) ** 2 / (left * omega**2), 1.0)


def best_omega(rho: float) -> float:
    return 2 / (1 + math.sqrt(1 - rho))


def contraction_of(omega: float) -> float:
    """The rho that an omega is best for."""
    return 1 - (2 / omega - 1) ** 2


def overshot(potential: Potential, old: Tensor, new: Tensor, omega: float, overwrite: bool) -> Tensor:
    """``P(old + omega (new - old))``, in the memory of ``new`` where nobody else reads it; a simplex is not left."""
    if potential.simplex is not None:
        return new
    s = torch.lerp(old, new, omega, out=new) if overwrite else torch.lerp(old, new, omega)
    bounded = math.isfinite(potential.lower) or math.isfinite(potential.upper)
    return s.clamp_(potential.lower, potential.upper) if bounded else s
