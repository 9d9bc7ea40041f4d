"""benchmarks.stopping: what it prints and writes, and blocks that ended too early once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import stopping


@pytest.mark.slow
def test_no_random_block_is_off_by_more_than_its_tolerance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stopping.main(["--quick", "--threads", "1", "--out", str(tmp_path)]) == 0
    assert "met relaxations off by more than their tolerance: 0" in capsys.readouterr().out
    rows = json.loads((tmp_path / "stopping.json").read_text())["rows"]
    assert [row["phase"] for row in rows] == ["free phase", "displacement"]
    assert all(row["converged"] == stopping.QUICK_BLOCKS and row["mean sweeps"] >= 1 for row in rows)


def test_conjugate_gradients_whose_first_steps_do_more_than_the_last() -> None:
    _, displacement = stopping.outcomes(425)
    assert displacement.phase == "displacement"
    assert displacement.off <= 1


def test_a_state_that_is_off_is_counted() -> None:
    (exact,) = stopping.outcomes(0)[:1]
    assert stopping.row("free phase", [exact, stopping.Outcome("free phase", 1.5, 2)])["worst, in tolerances"] == 1.5
    assert stopping.row("free phase", [stopping.Outcome("free phase", 1.5, 2)])["off by more than the tolerance"] == 1
