"""Sweeps in float32, and corrections in bfloat16 after them as long as what these round can be borne.

A product ``J d`` is rounded by a part u of what is multiplied, not of the result, in which most may cancel. In the state that it reaches,

    |rounding of s_l| <= u sum_k sqrt(c w_k sigma_l' / (w_l sigma_k')) |d_k|

over the states k that l is coupled to, since a contraction c certifies ``(w_m / w_l) |J_lm|^2 sigma_l' sigma_m' <= c`` for every coupling. That is
added to the estimated error. Where it is too much, plain sweeps follow. They compute all products anew, but the first one from states
that are rounded, so what was rounded goes once more through the couplings, by the same bound. So does what the very first sweep changes: the states
that it begins with may be off in any way, and a residual tells what is left only of errors that a sweep has shaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .binding import BoundBlock
from .iteration import Relaxation, advance, largest_ratio, peaks

Sweep = Callable[[], Mapping[str, tuple[Tensor, Tensor]]]
"""Advances every state, and gives (new, change) of each."""

UNIT = 2.0**-8
"""The rounding of a product's factors to bfloat16, of which many that go either way add up."""

HOPE = 0.25
"""The part of the certified contraction that is hoped for: a correction that turns out larger is followed by plain sweeps."""


@dataclass
class Alternation:
    """A relaxation whose sweeps may be rounded.

    Attributes:
        bound: a block of linear couplings with a certified contraction.
        plain, correct: a sweep in float32, and one whose products are in bfloat16.
        forward: whether sweeps go from the inputs to the outputs, or back.
        tolerance: the estimated error at which it has converged.
    """

    bound: BoundBlock
    plain: Sweep
    correct: Sweep
    forward: bool
    tolerance: float
    _sizes: dict[str, float] = field(default_factory=dict)
    _moved: dict[str, float] = field(default_factory=dict)
    _rounding: dict[str, float] = field(default_factory=dict)
    _is_rounded: bool = False

    def settle(self, max_sweeps: int) -> Relaxation:
        """Sweeps until the estimated error, rounding included, is within the tolerance."""
        name, contraction = self.bound.block.name, self.bound.contraction
        assert contraction is not None
        return advance(
            name,
            self._step,
            self.tolerance,
            max_sweeps,
            floor=contraction,
            sure=True,
            rounding=lambda: self._largest(self._rounding),
        )

    def _step(self) -> float:
        first, before = not self._sizes, self._moved
        corrects = not first and self._may_correct()
        found = peaks(self.correct() if corrects else self.plain())
        self._sizes |= {n: size for n, (size, _) in found.items()}
        self._moved = {n: moved for n, (_, moved) in found.items()}
        if corrects:
            until_now = self._rounding if self._is_rounded else {}
            self._rounding = _sum(until_now, self._rounded(before, self._moved))
        else:
            off = self._moved if first else self._rounding if self._is_rounded else {}
            self._rounding = swept(self.bound, off, self.forward)
        self._is_rounded = corrects
        return largest_ratio(found.values())

    def _may_correct(self) -> bool:
        """Whether a correction may come next, by what its first products will round and what is hoped for the others."""
        changes = ((self._sizes[n], moved) for n, moved in self._moved.items())
        hoped = UNIT * HOPE * (self.bound.contraction or 1.0) * largest_ratio(changes)
        until_now = self._rounding if self._is_rounded else {}
        return self._largest(_sum(until_now, self._rounded(self._moved, {}))) + hoped <= self.tolerance

    def _rounded(self, before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
        """What the products of a correction may have cost each state, of the changes before it and those that it makes."""
        found = reached(self.bound, *((now, before) if self.forward else (before, now)))
        return {n: UNIT * v for n, v in found.items()}

    def _largest(self, costs: Mapping[str, float]) -> float:
        return max((v / self._sizes[n] for n, v in costs.items() if self._sizes.get(n, 0) > 0), default=0.0)


def reached(bound: BoundBlock, pushed: Mapping[str, float], pulled: Mapping[str, float]) -> dict[str, float]:
    """How far each state moves at most when those it is coupled to do.

    Args:
        pushed: how far those move that its drive reads.
        pulled: how far those move whose feedback reaches it.
    """
    found: dict[str, float] = {}
    for source, target in bound.block.edges:
        found[target] = found.get(target, 0.0) + _bound(bound, target, source) * pushed.get(source, 0.0)
        found[source] = found.get(source, 0.0) + _bound(bound, source, target) * pulled.get(target, 0.0)
    return found


def swept(bound: BoundBlock, off: Mapping[str, float], forward: bool) -> dict[str, float]:
    """How far each state is off at most after a sweep of exact products, when those that it begins with are off by so much.

    A sweep reads the states that it has passed as they are now, the others as they were.
    """
    states = [s.name for s in bound.block.states]
    found: dict[str, float] = {}
    for n in states if forward else reversed(states):
        found[n] = sum(_bound(bound, n, m) * (found[m] if m in found else off.get(m, 0.0)) for m in _beside(bound, n))
    return found


def _beside(bound: BoundBlock, state: str) -> list[str]:
    """The states that one is coupled to."""
    return [source if target == state else target for source, target in bound.block.edges if state in (source, target)]


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {n: one.get(n, 0.0) + other.get(n, 0.0) for n in {**one, **other}}


def _bound(bound: BoundBlock, state: str, other: str) -> float:
    """On what one state's change moves another by, whichever way the coupling between them goes."""
    slopes = bound.block.state(state).potential.slope / bound.block.state(other).potential.slope
    weights = bound.layer_weights[other] / bound.layer_weights[state]
    return math.sqrt((bound.contraction or 1.0) * weights * slopes)
