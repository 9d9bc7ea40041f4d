"""Each suite on one small network: its row says what it must, and its goals are judged by the right rows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from benchmarks.speed import inference, memory, networks, schedules, splitting, step, suites
from benchmarks.speed.memory import Measurement
from benchmarks.speed.result import Options
from benchmarks.speed.subjects import Subject
from benchmarks.speed.subjects import splitting as splitting_network

QUICK = Options(quick=True, repeats=2)


def test_a_step() -> None:
    row = step.measure(splitting_network(6, 2, False, quick=True), QUICK)
    assert row["network"], row["blocks"] == ("splitting, L = 6", "2")
    assert 0 < row["lower"] <= row["ratio"] <= row["upper"]
    assert row["rounds"] == 2
    assert row["worst cosine"] > 0.9999
    assert row["worst cosine"] <= row["cosine"] + 1e-6
    done, of = map(int, row["converged"].split("/"))
    assert done == of > 0


def test_every_way_to_train() -> None:
    build = partial(networks.mlp, 24, 3)
    subject = Subject("MLP", "2", {"block_size": 2}, build, (1, 28, 28), 10, True, (20, 10, 0.001))
    rows = {r["way"]: r for r in schedules.measure(subject, replace(QUICK, repeats=1))}
    assert {*schedules.OURS, schedules.PAPER, schedules.RECORDED} <= rows.keys()
    assert rows["ours"]["error"] < 1e-2
    assert rows[schedules.RECORDED]["error"] < 1e-2
    assert rows[schedules.PAPER]["cosine"] > 0.9
    assert rows[schedules.PAPER]["times as fast as the paper's"] == 1


def test_the_speed_up_counts_where_the_gradient_is_no_worse() -> None:
    row = {"network": "n", "blocks": "2", "feedback": "unit"}
    paper = {**row, "way": schedules.PAPER, "error": 0.1, "times as fast as the paper's": 1.0}
    tight = {**row, "way": "ours", "error": 0.01, "times as fast as the paper's": 5.0}
    loose = {**row, "way": "ours, 1e-3", "error": 0.2, "times as fast as the paper's": 9.0}
    assert schedules.least([paper, tight, loose]) == 5.0
    assert schedules.least([paper, {**tight, "error": 0.3}, loose]) == 0.0
    other = [{**r, "blocks": "6", "times as fast as the paper's": 2.0} for r in (paper, tight)]
    assert schedules.least([paper, tight, loose, *other]) == 2.0


def test_sizes_are_compared_with_blocks_of_two() -> None:
    rows = splitting.measure(6, (3,), False, QUICK)
    assert [(r["blocks"], r["rounds"]) for r in rows] == [("3", 2), ("2", 2)]
    assert (rows[1]["lower"], rows[1]["ratio"], rows[1]["upper"]) == (1, 1, 1)


def test_an_inference() -> None:
    rows = inference.measure(splitting_network(6, 2, False, quick=True), QUICK)
    assert rows[0]["way"] == "default"
    for row in rows:
        assert row["ratio"] > 0
        assert row["sweeps"] >= 1
        assert row["difference"] < (1e-3 if row["way"] == inference.LOOSE else 1e-5)
    assert rows[-1]["way"] == inference.LOOSE


@pytest.mark.slow
def test_memory_does_not_hold_the_sweeps_unless_they_are_recorded() -> None:
    ours, recorded = (memory.in_a_process(Measurement(way, 12, True, "cpu", 1, 0)) for way in ("BP-EP", "recorded"))
    assert ours.free == 12
    assert recorded.peak > 1.5 * ours.peak


@pytest.mark.parametrize("name", suites.present())
def test_every_suite_says_what_it_measures(name: str) -> None:
    assert callable(suites.load(name))
    assert suites.purpose(name).endswith(".")
