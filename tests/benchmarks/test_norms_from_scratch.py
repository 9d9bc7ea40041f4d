"""benchmarks.norms_from_scratch: what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import norms_from_scratch
from benchmarks.norms_from_scratch import METHODS


@pytest.mark.slow
def test_it_prints_means_with_standard_errors_and_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert norms_from_scratch.main(["--quick", "--threads", "1", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "standard error" in shown
    assert "within 3 points: " in shown
    assert " +- " in shown
    rows = json.loads((tmp_path / "norms_from_scratch.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [*METHODS]
    assert all(row["lowest"] <= row["accuracy, %"] <= row["highest"] for row in rows)


def test_runs_start_from_other_weights_and_nearby_ones_a_rounding_apart() -> None:
    options = norms_from_scratch.parser().parse_args([])
    nearby = norms_from_scratch.parser().parse_args(["--nearby"])
    assert options.runs == 48
    first, second = (next(norms_from_scratch.initial(options, run).parameters()) for run in (0, 1))
    assert (first - second).abs().max() > 0.1
    first, second = (next(norms_from_scratch.initial(nearby, run).parameters()) for run in (0, 1))
    assert 0 < (first - second).abs().max() < 1e-6
    assert not torch.equal(first, next(norms_from_scratch.initial(options, 0).parameters()))
