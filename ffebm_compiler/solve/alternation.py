"""Sweeps in float32, and corrections in bfloat16 after them as long as what these round can be borne.

A product ``J d`` is rounded by a part u of what is multiplied, not of the result, in which most may cancel. In the state that it reaches,

    |rounding of s_l| <= u sum_k b_lk |d_k|

over the states k that l is coupled to, with the bounds b of :mod:`.contraction`. That is added to the estimated error. Where it is too
much, plain sweeps follow. They compute all products anew, but the first one from states that are rounded, so what was rounded goes once more
through the couplings, by the same bounds. What the states begin with may be rounded too: the first sweep's change has that in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .binding import BoundBlock
from .contraction import Contraction, added
from .iteration import Last, Relaxation, advance, bound_of, largest_ratio, peaks

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
    _last: Last = Last({}, {})  # noqa: RUF009

    def settle(self, max_sweeps: int) -> Relaxation:
        """Sweeps until the estimated error, rounding included, is within the tolerance."""
        name, contraction = self.bound.block.name, self._certified
        return advance(
            name,
            self._step,
            self.tolerance,
            max_sweeps,
            floor=contraction.rate,
            sure=self.forward,  # backward from zero: what no nudge has reached yet has not moved, and is not settled
            bound=bound_of(contraction, self.forward, lambda: self._last),
            rounding=lambda: self._largest(self._rounding),
        )

    @property
    def _certified(self) -> Contraction:
        assert self.bound.contraction is not None
        return self.bound.contraction

    def _step(self) -> float:
        first, before = not self._sizes, self._moved
        corrects = not first and self._may_correct()
        changes = self.correct() if corrects else self.plain()
        found = peaks(changes)
        self._last = Last(changes, found)
        self._sizes |= {n: size for n, (size, _) in found.items()}
        self._moved = {n: moved for n, (_, moved) in found.items()}
        if corrects:
            until_now = self._rounding if self._is_rounded else {}
            self._rounding = added(until_now, self._rounded(before, self._moved))
        else:
            self._rounding = self._certified.swept(self._rounding, self.forward) if self._is_rounded else {}
        self._is_rounded = corrects
        return largest_ratio(found.values())

    def _may_correct(self) -> bool:
        """Whether a correction may come next, by what its first products will round and what is hoped for the others."""
        changes = ((self._sizes[n], moved) for n, moved in self._moved.items())
        hoped = UNIT * HOPE * self._certified.rate * largest_ratio(changes)
        until_now = self._rounding if self._is_rounded else {}
        return self._largest(added(until_now, self._rounded(self._moved, {}))) + hoped <= self.tolerance

    def _rounded(self, before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
        """What the products of a correction may have cost each state, of the changes before it and those that it makes."""
        found = self._certified.reached(*((now, before) if self.forward else (before, now)))
        return {n: UNIT * v for n, v in found.items()}

    def _largest(self, costs: Mapping[str, float]) -> float:
        return max((v / self._sizes[n] for n, v in costs.items() if self._sizes.get(n, 0) > 0), default=0.0)
