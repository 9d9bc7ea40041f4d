"""The benchmark of the parts' graphs runs from its command line, and counts every graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import onnx_parts as benchmark


@pytest.mark.slow
def test_a_run_writes_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--models", "dropout_layers,views", "--block-sizes", "2", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "onnx_parts.json").read_text())
    assert [r["graphs"] for r in found["rows"]] == [6, 4]
    assert "10 of 10 graphs agree within 1e-05" in capsys.readouterr().out


def test_help_says_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--help"])
    assert ended.value.code == 0
    assert "vector-Jacobian" in capsys.readouterr().out
