"""Random awkward models are right in every call, or refused by name; none is silently wrong, none ends in an error of
torch's own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.awkward import Awkward, Verdict, drawn, judged
from benchmarks.awkward.parts import PARTS
from benchmarks.awkward.run import verdicts, within
from benchmarks.awkward.verdict import is_rounding


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 80, 20))
def test_awkward_models_are_right_or_refused(first: int) -> None:
    found = [judged(drawn(seed)) for seed in range(first, first + 20)]
    assert [(v.model, v.outcome, v.what) for v in found if v.is_fault] == []
    assert any(v.outcome == "right" for v in found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARTS, ids=lambda k: k.__name__)
def test_each_kind_is_right_or_refused(kind: type) -> None:
    for given in (False, True):
        verdict = judged(Awkward(7, (kind.__name__,), 1, True, given, True))
        assert not verdict.is_fault, verdict


def test_a_model_that_takes_too_long_is_named() -> None:
    found = within(1e-3, drawn(0))
    assert (found.outcome, found.what) == ("out of time", "no verdict within 0.001 seconds")
    assert found.is_fault


def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    kept = tmp_path / "verdicts.jsonl"
    lines = [{"seed": s, "outcome": "right", "what": f"kept {s}"} for s in (1, 2)]
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = verdicts([1, 2], processes=1, seconds=60, kept=kept)
    assert [(v.model.seed, v.outcome, v.what) for v in found] == [(1, "right", "kept 1"), (2, "right", "kept 2")]


@pytest.mark.parametrize("outcome", ["silent", "raw", "caught by the check", "out of time"])
def test_what_is_neither_right_nor_refused_by_name_is_a_fault(outcome: str) -> None:
    assert Verdict(drawn(0), outcome, "").is_fault


def test_a_difference_of_roundings_is_told_from_a_fault() -> None:
    theirs, rounded = torch.tensor([1.0, 2e-8]), torch.tensor([1.0, 1e-8])
    assert is_rounding(torch.tensor([1.0, 3e-8]), theirs, rounded)
    assert not is_rounding(torch.tensor([1.0, 1e-6]), theirs, rounded)
    assert not is_rounding(None, theirs, rounded)
    assert not is_rounding(theirs, theirs.tolist(), rounded)
