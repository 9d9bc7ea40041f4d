"""``ffebm study`` as a user meets it: what it writes and prints, how it goes on, and how it says no."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ffebm_compiler.cli import main
from ffebm_compiler.cli.load import load_model
from ffebm_compiler.study import Bench, Point

MODELS = """
import torch
from torch import nn

def Net():
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))

def data():
    x = torch.randn(60, 6)
    return x, (x[:, :3] + 0.1 * torch.randn(60, 3)).argmax(1)

def unlabelled(): return torch.randn(50, 6)
def broken_data(): raise ValueError("no data here")
def no_data(): return "nothing"
"""

FEW = ("--calibrate", "8", "--samples", "24", "--gradient-samples", "8", "--batch", "12", "--no-plots")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "study_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("study_models", None)


@pytest.fixture
def study(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["study", "study_models.py:Net", *FEW, *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def rows(folder: Path, name: str = "points.csv") -> list[dict[str, str]]:
    with (folder / name).open() as file:
        return [*csv.DictReader(file)]


@pytest.mark.slow
def test_a_study_of_labelled_data(study: Run, folder: Path) -> None:
    status, out, err = study("--data", "study_models.py:data", "--sweep", "read_noise=0,0.3", "--sweep", "adc_bits=4,8")
    assert (status, err) == (0, "")
    found = rows(folder / "study")
    assert len(found) == 2 * 2 * 3
    assert {r["chip"] for r in found} == {"0", "1", "2"}
    assert all(0 <= float(r["accuracy"]) <= 1 and float(r["energy"]) > 0 and r["error"] == "" for r in found)
    assert len(rows(folder / "study", "summary.csv")) == 4
    asked = json.loads((folder / "study" / "study.json").read_text())
    assert asked["sweeps"] == {"read_noise": [0.0, 0.3], "adc_bits": [4, 8]}
    assert asked["hardware"]["name"] == "rram"
    assert asked["versions"]["torch"] == torch.__version__
    assert "read_noise=0.3 adc_bits=8" in out
    assert "digital model" in out
    assert "energy (J)" in out
    assert "latency (s)" in out
    noisy, calm = ([float(r["output_error"]) for r in found if r["read_noise"] == v] for v in ("0.3", "0.0"))
    assert min(noisy) > max(calm)


@pytest.mark.slow
def test_without_labels_the_digital_model_is_what_counts(study: Run, folder: Path) -> None:
    status, out, _ = study("--input-shape", "1,6", "--sweep", "adc_bits=3", "--hardware", "ideal", "--chips", "1")
    assert status == 0
    assert "digital model" not in out  # a row without a number
    (row,) = rows(folder / "study")
    assert row["accuracy"] == ""
    assert 0 < float(row["output_error"]) < 1
    assert 0 <= float(row["agreement"]) <= 1
    assert study("--data", "study_models.py:unlabelled", "--sweep", "adc_bits=3", "--chips", "1", "-o", "u")[0] == 0
    assert study("--sweep", "adc_bits=3", "--chips", "1", "-o", "guessed")[0] == 0


def test_the_conversion_can_be_swept(study: Run, folder: Path) -> None:
    """At block size 1 an ideal chip is the feedforward network."""
    sweeps = ("--sweep", "block_size=1,3", "--sweep", "loop_gain=0.001,0.2")
    assert study(*sweeps, "--hardware", "ideal", "--chips", "1")[0] == 0
    errors = {(r["block_size"], r["loop_gain"]): float(r["output_error"]) for r in rows(folder / "study")}
    assert errors["1", "0.001"] < 1e-5
    assert errors["1", "0.2"] < 1e-5
    assert errors["3", "0.2"] > 10 * errors["3", "0.001"] > 1e-5


@pytest.mark.slow
def test_it_goes_on_where_it_stopped_and_takes_more_chips(study: Run, folder: Path) -> None:
    command = ("--sweep", "read_noise=0,0.1", "--one-at-a-time")
    assert study(*command, "--chips", "2")[0] == 0
    before = (folder / "study" / "points.jsonl").read_text().splitlines()
    (folder / "study" / "points.jsonl").write_text("\n".join(before[:3]) + "\n" + before[3][:20])
    status, _, err = study(*command, "--chips", "3")
    assert (status, err) == (0, "going on: 3 of 9 points are done\n")
    after = (folder / "study" / "points.jsonl").read_text().splitlines()
    assert after[:3] == before[:3]
    assert len(after) == 9
    assert len(rows(folder / "study")) == 9


def test_another_configuration_in_the_folder_is_one_clear_error(study: Run) -> None:
    assert study("--sweep", "read_noise=0,0.1", "--chips", "1")[0] == 0
    status, out, err = study("--sweep", "read_noise=0,0.2", "--chips", "1", "--seed", "3", "--hardware", "ideal")
    assert (status, out) == (2, "")
    assert err.startswith("ffebm: error: folder study: holds another study: fingerprint.weights was ")
    assert "sweeps.read_noise was [0.0, 0.1] and is now [0.0, 0.2]" in err
    assert "hardware.name was rram and is now ideal" in err


def test_points_that_fail_are_told_and_tried_again(study: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Bench.measure

    def failing(self: Bench, point: Point) -> dict[str, float | None]:
        if point.settings == (("read_noise", 0.1),):
            raise RuntimeError("a chip that breaks")
        return measure(self, point)

    command = ("--sweep", "read_noise=0,0.1", "--chips", "1")
    with monkeypatch.context() as patched:
        patched.setattr(Bench, "measure", failing)
        status, _, err = study(*command)
    assert (status, err) == (1, "ffebm: 1 of 2 points failed, the first: RuntimeError: a chip that breaks\n")
    assert [r["error"] for r in rows(folder / "study")] == ["", "RuntimeError: a chip that breaks"]
    assert study(*command)[0] == 0
    assert [r["error"] for r in rows(folder / "study")] == ["", ""]


@pytest.mark.slow
def test_float32_is_for_models_that_insist_on_it(study: Run, folder: Path) -> None:
    """At a weak feedback, subtracting states of float32 leaves nothing of the first layer's gradient."""
    command = ("--sweep", "loop_gain=1e-4", "--block-size", "3", "--hardware", "ideal", "--chips", "1")
    found = {}
    for precision in ("float64", "float32"):
        assert study(*command, "--precision", precision, "-o", precision)[0] == 0
        found[precision] = float(rows(folder / precision)[0]["cosine_worst"])
    assert found["float64"] > 0.9999
    assert found["float32"] < 0.9


# --- weights ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trained_weights_are_used(study: Run, folder: Path) -> None:
    net = load_model("study_models.py:Net")
    torch.save(net.state_dict(), "net.pt")
    torch.save({"epoch": 3, "model": net.state_dict()}, "checkpoint.pt")
    np.savez(
        "data.npz",
        x=(x := np.random.default_rng(0).normal(size=(40, 6))),
        y=net(torch.tensor(x).float()).argmax(1).numpy(),
    )
    for number, name in enumerate(("net.pt", "checkpoint.pt")):
        command = ("--weights", name, "--data", "data.npz", "--sweep", "adc_bits=none", "--hardware", "ideal")
        assert study(*command, "--chips", "1", "-o", f"s{number}")[0] == 0
        assert float(rows(folder / f"s{number}")[0]["accuracy"]) == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "0.bias"}, ["has no 0.bias"]),
        (
            lambda s: {f"module.{k}": v for k, v in s.items()},
            ["has no 0.bias", '"module.0.bias"', "has module.0.bias, which"],
        ),
        (lambda s: s | {"0.weight": torch.zeros(4, 6)}, ["0.weight has the shape (4, 6), in the model (12, 6)"]),
        (lambda s: s | {"0.bias": torch.full((12,), torch.nan)}, ["0.bias has values that are NaN"]),
        (lambda s: {"epoch": 3}, ["holds no state dict"]),
        (lambda s: [1, 2], ["holds no state dict"]),
        (lambda s: torch.nn.Linear(2, 2), ["can't be loaded as weights", "Whole models are refused"]),
    ],
)
def test_weights_that_do_not_fit_are_one_error(study: Run, change: Callable, what: list[str]) -> None:
    torch.save(change(dict(load_model("study_models.py:Net").state_dict())), "bad.pt")
    status, out, err = study("--weights", "bad.pt", "--sweep", "adc_bits=4")
    assert (status, out) == (2, "")
    assert all(w in err for w in what)
    assert "weights bad.pt" in err


def test_files_that_are_no_weights_are_refused(study: Run, folder: Path) -> None:
    (folder / "text.pt").write_text("weights")
    for name, what in (("none.pt", "does not exist"), (".", "is a folder"), ("text.pt", "no file of torch.save")):
        assert what in study("--weights", name, "--sweep", "adc_bits=4")[2]


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "there is nothing to study"),
        (("--sweep", "adcbits=4"), 'Did you mean "adc_bits"'),
        (("--sweep", "adc_bits=4", "--hardware", "rramm"), '"rram"'),
        (("--sweep", "adc_bits=4", "--chips", "0"), "option --chips: is 0"),
        (("--sweep", "adc_bits=4", "--jobs", "-1"), "option --jobs: is -1"),
        (("--sweep", "adc_bits=4", "--batch", "0"), "option batch: is 0"),
        (("--sweep", "read_noise=0:1:1000", "--sweep", "offset=0:1:1000"), "makes 3,000,000 points"),
        (("--sweep", "block_size=1,2", "--block-sizes", "2,1"), "--block-sizes: is given while block_size is swept"),
        (("--sweep", "g_min=1uS,80uS"), "g_min and g_max"),
        (("--sweep", "adc_bits=4", "--data", "none.npz"), "data none.npz: does not exist"),
        (("--sweep", "adc_bits=4", "--data", "study_models.py"), "does not name a factory"),
        (("--sweep", "adc_bits=4", "--data", "study_models.py:dat"), '"data"'),
        (("--sweep", "adc_bits=4", "--data", "study_models.py:broken_data"), "ValueError: no data here"),
        (("--sweep", "adc_bits=4", "--data", "study_models.py:no_data"), "gave input 0 as str"),
        (("--sweep", "adc_bits=4", "--input-shape", "1,5"), "the model does not take it"),
        (("--sweep", "adc_bits=4", "-o", "no/where"), "there is no folder no"),
        (("--sweep", "adc_bits=4", "--data", "study_models.py:data", "--calibrate", "60"), "takes 60 of 60 samples"),
    ],
)  # fmt: skip
def test_what_can_t_be_studied_is_one_clear_error(
    study: Run, folder: Path, arguments: tuple[str, ...], what: str
) -> None:
    status, out, err = study(*arguments)
    assert (status, out) == (2, "")
    assert what in err
    assert "Traceback" not in err
    assert not (folder / "study").exists()


def test_all_that_is_wrong_with_the_options_is_told_at_once(study: Run) -> None:
    err = study("--sweep", "adc_bits=0,x", "--sweep", "red_noise=1", "--hardware", "none", "--chips", "0")[2]
    assert err.startswith("ffebm: error: 5 problems:")


# --- processes ----------------------------------------------------------------------------------------------

PROGRAM = [sys.executable, "-m", "ffebm_compiler.cli", "study", "study_models.py:Net", *FEW]


@pytest.mark.slow
def test_processes_find_what_one_process_finds(study: Run, folder: Path) -> None:
    sweep = ("--sweep", "read_noise=0.05,0.2", "--chips", "2")
    assert study(*sweep, "-o", "one")[0] == 0
    done = subprocess.run([*PROGRAM, *sweep, "-o", "two", "--jobs", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def found(name: str) -> dict[tuple[str, str], dict[str, float]]:
        return {
            (r["read_noise"], r["chip"]): {
                m: float(r[m]) for m in ("output_error", "residual", "cosine_worst", "energy")
            }
            for r in rows(folder / name)
        }

    one, two = found("one"), found("two")
    assert len(one) == 4
    assert one.keys() == two.keys()
    for key, metrics in one.items():
        assert two[key] == pytest.approx(metrics, rel=1e-6)  # up to rounding


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_leaves_what_is_done_and_says_how_to_go_on(folder: Path) -> None:
    """Sent to the whole group, as a terminal does."""
    process = subprocess.Popen(  # a test run in the background would hand on that it ignores Ctrl-C
        [*PROGRAM, "--sweep", "read_noise=0:0.2:1000", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    points, deadline = folder / "study" / "points.jsonl", time.monotonic() + 120
    while not (points.exists() and points.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)  # which waits for every process that holds its output
    assert process.returncode == 130, err
    lines = points.read_text().splitlines()
    assert len(lines) > 0
    assert (
        err == f"ffebm: interrupted: {len(lines)} of 3000 points are in study. Run the same command again to go on.\n"
    )
    assert len(rows(folder / "study")) == len(lines)
