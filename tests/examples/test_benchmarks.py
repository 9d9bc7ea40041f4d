"""Every benchmark runs from its command line, prints a table and writes it with its configuration."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

RUNS = {
    "accuracy": ["--activations", "relu,sigmoid", "--block-sizes", "2", "--pooling", "max"],
    "training": ["--activations", "tanh"],
    "gradients": ["--block-sizes", "3"],
    "emulation": [],
    "fuzz_bundles": [],
}


def benchmark(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_quick_run_writes_its_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark(name).main(["--quick", "--out", str(tmp_path), *RUNS[name]]) == 0
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["rows"]
    assert found["config"]["quick"] is True
    assert found["config"]["seed"] == 0
    assert "torch" in found["versions"]
    shown = capsys.readouterr().out
    assert all(column in shown for column in found["rows"][0])


@pytest.mark.parametrize("name", RUNS)
def test_help_says_what_is_measured(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark(name).main(["--help"])
    assert ended.value.code == 0
    assert "OMP_WAIT_POLICY" in capsys.readouterr().out


def test_an_unknown_activation_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark("accuracy").main(["--activations", "swish"])
    assert "'swish' is not one of relu, clamp, tanh, sigmoid" in capsys.readouterr().err
