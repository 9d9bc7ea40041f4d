"""Two things are timed in turn, and a ratio is taken within a round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speed import timing
from benchmarks.speed.timing import Race, Spread, race


class Clock:
    """A clock that only a contender's work advances."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, list[str]()

    def work(self, name: str, *durations: float) -> timing.Work:
        left = list(durations)

        def run() -> None:
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: found.now)
    return found


def test_every_round_begins_with_another_contender(clock: Clock) -> None:
    race({n: clock.work(n, 1.0) for n in "abc"}, 3)
    assert "".join(clock.order) == "abc" + "abc" + "bca" + "cab"


def test_the_first_run_is_not_counted(clock: Clock) -> None:
    found = race({"a": clock.work("a", 9.0, 2.0), "b": clock.work("b", 1.0)}, 4, budget=100.0)
    assert found.seconds["a"] == [2.0] * 4
    assert found.ratio("a", "b") == Spread(2.0, 2.0, 2.0, 4)
    assert found.milliseconds("a") == 2000


def test_long_contenders_are_timed_less_often(clock: Clock) -> None:
    found = race({"a": clock.work("a", 6.0), "b": clock.work("b", 4.0)}, 50, budget=50.0)
    assert len(found.seconds["a"]) == 5


def test_a_first_run_beyond_the_budget_counts(clock: Clock) -> None:
    found = race({"a": clock.work("a", 60.0), "b": clock.work("b", 4.0)}, 50, budget=50.0)
    assert len(found.seconds["a"]) == timing.FEWEST
    assert len(clock.order) == 2 * timing.FEWEST


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    assert Race({"a": [2.0, 4.0, 2.0], "b": [1.0, 2.0, 1.0]}).ratio("a", "b") == Spread(2.0, 2.0, 2.0, 3)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_quartiles(values: list[float]) -> None:
    found = Spread.of(values)
    assert np.allclose((found.lower, found.median, found.upper), np.percentile(values, [25, 50, 75]))
    assert found.rounds == len(values)
