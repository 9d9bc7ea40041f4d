"""Points are the product of the axes, or each axis alone, for every chip."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.chip.hardware import Hardware
from ffebm_compiler.study import Axis, Point, count, impossible, one_at_a_time, points

NOISE, BITS, GAIN = Axis("read_noise", (0.0, 0.1)), Axis("adc_bits", (4, 6, None)), Axis("loop_gain", (0.01, None))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 4), st.booleans())
def test_there_are_as_many_points_as_counted_and_no_two_alike(sizes: list[int], chips: int, alone: bool) -> None:
    axes = [Axis(f"axis{i}", tuple(range(size))) for i, size in enumerate(sizes)]
    made = points(axes, alone, chips)
    assert len(made) == count(axes, alone, chips) == chips * (1 + sum(sizes) if alone else math.prod(sizes))
    assert len({p.key for p in made}) == len(made)


def test_a_point_changes_the_base_and_the_conversion() -> None:
    base = Hardware(read_noise=0.05, offset=0.003)
    point = Point((("adc_bits", 6), ("loop_gain", None), ("block_size", 3)), chip=2)
    assert point.hardware(base) == Hardware(read_noise=0.05, offset=0.003, adc_bits=6)
    assert point.conversion == {"loop_gain": None, "block_size": 3}
    assert point.key == "adc_bits=6 loop_gain=None block_size=3 chip=2"


def test_points_of_one_conversion_follow_each_other() -> None:
    """What they share is kept from one to the next."""
    order = [p.conversion["loop_gain"] for p in points([GAIN, NOISE, BITS], False, 2)]
    assert order == [0.01] * 12 + [None] * 12


def test_one_at_a_time_leaves_the_others_at_the_base() -> None:
    assert [dict(s) for s in one_at_a_time([NOISE, BITS])] == [
        {}, {"read_noise": 0.0}, {"read_noise": 0.1}, {"adc_bits": 4}, {"adc_bits": 6}, {"adc_bits": None},
    ]  # fmt: skip


@pytest.mark.parametrize("alone", [True, False])
def test_combinations_that_no_chip_can_have_are_found_before_the_work(alone: bool) -> None:
    axes = [Axis("g_min", (1e-6, 5e-5)), Axis("g_max", (1e-5, 1e-4))]
    failure = impossible(axes, alone, Hardware(g_max=2e-5))
    assert failure is not None
    found = {(1e-6 if "1e-06" in p.what else 5e-5, p.what.split(" and ")[1].split(" S")[0]) for p in failure.problems}
    assert found == ({(5e-5, "2e-05")} if alone else {(5e-5, "1e-05")})
    assert impossible([NOISE, BITS], alone, Hardware()) is None
