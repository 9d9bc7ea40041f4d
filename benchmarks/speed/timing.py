"""How long one thing takes relative to another: both in turn, in one run, so that what disturbs one disturbs the other.

Every contender is timed once a round, and each round begins with another one. A ratio is taken within a round; what is
reported is the median of the rounds' ratios with its quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Work = Callable[[], object]

FEWEST = 3
"""Rounds of a measurement, however long they take."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the rounds' ratios, and how many rounds there were."""

    median: float
    lower: float
    upper: float
    rounds: int

    @property
    def columns(self) -> dict[str, float]:
        """As columns of a table."""
        return {"ratio": self.median, "lower": self.lower, "upper": self.upper, "rounds": self.rounds}

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return Spread(values[0], values[0], values[0], len(values))
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, lower, upper, len(values))


@dataclass(frozen=True)
class Race:
    """The seconds that each contender took, round by round."""

    seconds: Mapping[str, Sequence[float]]

    def ratio(self, contender: str, reference: str) -> Spread:
        """The time of one in times of the other."""
        pairs = zip(self.seconds[contender], self.seconds[reference], strict=True)
        return Spread.of([a / b for a, b in pairs])

    def milliseconds(self, contender: str) -> float:
        return 1e3 * statistics.median(self.seconds[contender])


def seconds(work: Work, device: str = "cpu") -> float:
    """Of one call, until the device has done it."""
    _wait(device)
    begun = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def race(works: Mapping[str, Work], rounds: int, device: str = "cpu", budget: float = 30.0) -> Race:
    """Times every contender in turn.

    Args:
        rounds: how many, unless they take longer than ``budget`` seconds: then fewer, and at least ``FEWEST``. The
            first round is not counted, unless one takes so long that what happens only once is nothing beside it.
    """
    names, first = list(works), {name: seconds(work, device) for name, work in works.items()}
    cost = sum(first.values())
    rounds = min(rounds, max(FEWEST, int(budget / max(cost, 1e-9))))
    taken = {name: [t] if cost > budget else list[float]() for name, t in first.items()}
    for i in range(len(taken[names[0]]), rounds):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            taken[name].append(seconds(works[name], device))
    return Race(taken)
