"""Sweeps are read as typed, against numpy's own ranges, and what is wrong with them is said all at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.errors import OptionError
from ffebm_compiler.study import MOST, Axis, parse_sweep, parse_sweeps, shown, sweepable


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("read_noise=0:0.1:11", "read_noise", (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)),
        ("adc_bits=4,6,8", "adc_bits", (4, 6, 8)),
        ("adc_bits=4, 6 ,none", "adc_bits", (4, 6, None)),
        ("adc_bits=4:8:3", "adc_bits", (4, 6, 8)),
        ("levels=2:32:5log", "levels", (2, 4, 8, 16, 32)),
        ("age=20:2e6:6 log", "age", (20.0, 200.0, 2e3, 2e4, 2e5, 2e6)),
        ("g_max=20 uS:40uS:3", "g_max", (2e-5, 3e-5, 4e-5)),
        ("offset=10mV,0.02", "offset", (0.01, 0.02)),
        ("bidirectional=true,False", "bidirectional", (True, False)),
        ("write=ideal,pulses", "write", ("ideal", "pulses")),
        ("settling_time=none,1e-6", "settling_time", (None, 1e-6)),
        ("drift=0:0.1:2", "drift", (0.0, 0.1)),
        ("loop_gain=0.01,none", "loop_gain", (0.01, None)),
        ("loop_gain=0.01:1:3log", "loop_gain", (0.01, 0.1, 1.0)),
        ("block_size=1,2,3", "block_size", (1, 2, 3)),
        ("read_noise=0.1:0:3", "read_noise", (0.1, 0.05, 0.0)),
        ("adc_bits=8", "adc_bits", (8,)),
    ],
)
def test_a_sweep_is_what_it_says(text: str, name: str, values: tuple[object, ...]) -> None:
    axis = parse_sweep(text)
    assert axis == Axis(name, values)
    assert [type(v) for v in axis.values] == [type(v) for v in values]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.integers(2, 40))
def test_ranges_are_those_of_numpy(start: float, stop: float, number: int) -> None:
    if abs(start - stop) < 1e-3 * start:
        return
    for log, oracle in (("", np.linspace), ("log", np.geomspace)):
        found = parse_sweep(f"time_constant={start!r}:{stop!r}:{number}{log}").values
        np.testing.assert_allclose(np.array(found, dtype=float), oracle(start, stop, number), rtol=1e-10)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "names nothing to sweep"),
        ("read_noise", "names nothing to sweep"),
        ("=1,2", "names nothing to sweep"),
        ("readnoise=1,2", '"read_noise"'),
        ("loopgain=1", '"loop_gain"'),
        ("name=a,b", "no 'name' to sweep"),
        ("read_noise=", "has no values"),
        ("read_noise=0.1,,0.2", "empty value"),
        ("read_noise=0.1,x", "'x'"),
        ("read_noise=-0.1", "outside of"),
        ("read_noise=nan", "read_noise"),
        ("read_noise=inf", "read_noise"),
        ("adc_bits=0", "outside of [1, 24]"),
        ("adc_bits=4.5", "adc_bits"),
        ("adc_bits=4:8:4", "runs through 5.33"),
        ("g_max=40 mV", "a voltage, not a conductance"),
        ("read_noise=0:0.1", "not a range"),
        ("read_noise=0:0.1:-3", "not a range"),
        ("read_noise=0:0.1:3lin", "not a range"),
        ("read_noise=0:0.1:1", "asks for 1 values"),
        ("read_noise=0:0.1:0", "asks for 0 values"),
        (f"read_noise=0:0.1:{MOST + 1}", "asks for 100001 values"),
        ("read_noise=0:0.1:99999999999999999999", "asks for"),
        ("read_noise=0:0.1:3log", "through zero"),
        ("adc_bits=none:8:3", "no end of a range"),
        ("write=ideal:pulses:2", "no number that a range could run through"),
        ("write=idle", "write"),
        ("adc_bits=4,4", "has 4 more than once"),
        ("read_noise=0.1:0.1:3", "has 0.1 more than once"),
        ("block_size=0", "from 1"),
        ("block_size=2.5", "whole numbers from 1"),
        ("block_size=none", "whole numbers"),
        ("loop_gain=0", "above 0"),
        ("loop_gain=inf", "above 0"),
    ],
)
def test_what_is_wrong_is_one_error_that_quotes_the_text(text: str, what: str) -> None:
    with pytest.raises(OptionError) as raised:
        parse_sweep(text)
    (problem,) = raised.value.problems
    assert repr(text) in problem.where
    assert what in str(problem)
    assert problem.remedy


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(OptionError) as raised:
        parse_sweeps(["adc_bits=0,x", "readnoise=1", "offset=0.1", "offset=0.2"])
    told = str(raised.value)
    assert len(raised.value.problems) == 4
    assert all(part in told for part in ("is 0", "'x'", "read_noise", "sweep of offset: is given 2 times"))


def test_everything_but_the_name_can_be_swept() -> None:
    assert "name" not in sweepable()
    assert {"read_noise", "physics", "loop_gain", "block_size"} <= set(sweepable())


def test_values_are_printed_short() -> None:
    assert [*map(shown, (None, 736.806299728, 8, True, "pulses"))] == ["none", "736.8", "8", "True", "pulses"]
