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
    "speed": ["--block-sizes", "2"],
    "emulation": [],
    "fuzz_bundles": [],
}


def benchmark(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


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


@pytest.mark.parametrize("name", [*RUNS, "memory"])
def test_help_says_what_is_measured(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark(name).main(["--help"])
    assert ended.value.code == 0
    assert "OMP_WAIT_POLICY" in capsys.readouterr().out


def test_memory_of_ep_is_flat_and_that_of_unrolling_is_not(tmp_path: Path) -> None:
    assert benchmark("memory").main(["--quick", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "memory.json").read_text())
    peaks = {(r["estimator"], r["sweeps"]): float(r["peak MiB"]) for r in found["rows"]}
    assert all(r["free"] == r["sweeps"] for r in found["rows"])
    assert peaks["EP centered", 8] < 1.3 * peaks["EP centered", 2]
    assert peaks["unrolled", 8] > 1.5 * peaks["unrolled", 2]


def test_an_unknown_activation_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark("accuracy").main(["--activations", "swish"])
    assert "'swish' is not one of relu, clamp, tanh, sigmoid" in capsys.readouterr().err
