"""The generated training script runs as a program: trains, is interrupted, resumes, refuses bad data."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import ffebm_compiler as fc

pytestmark = pytest.mark.slow

MODEL = """
import torch
from torch import nn


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Linear(12, 16), nn.BatchNorm1d(16)
        self.two, self.three = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.relu(self.norm(self.one(x)))
        return self.three(h + torch.tanh(self.two(h)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "odd_model.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    x = rng.normal(size=(240, 12)) + 5 * np.eye(12)[y]
    np.savez(tmp_path / "data.npz", x=x.astype("float32"), y=y)
    namespace: dict[str, type] = {}
    exec(MODEL, namespace)
    model = fc.convert(namespace["Odd"](), block_size=2, digital=lambda name, module: name == "one", loop_gain=0.02)
    model.write_training_loop(tmp_path / "train.py", model="odd_model.py:Odd")
    return tmp_path


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "train.py", *args], cwd=folder, capture_output=True, text=True, timeout=300)


def rows(folder: Path, out: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_it_trains_and_resumes_to_the_same_weights(folder: Path) -> None:
    whole = run(folder, "--data", "data.npz", "--epochs", "6", "--out", "whole", "--lr", "0.01")
    assert whole.returncode == 0, whole.stderr
    assert rows(folder, "whole")[-1]["test_accuracy"] > 0.9
    assert run(folder, "--data", "data.npz", "--epochs", "2", "--out", "parts", "--lr", "0.01").returncode == 0
    assert (
        run(folder, "--data", "data.npz", "--epochs", "6", "--out", "parts", "--lr", "0.01", "--resume").returncode == 0
    )
    assert [r["epoch"] for r in rows(folder, "parts")] == [1, 2, 3, 4, 5, 6]
    first, second = (torch.load(folder / out / "weights.pt", weights_only=True) for out in ("whole", "parts"))
    assert list(first) == list(second)
    assert all(torch.equal(first[k], second[k]) for k in first)
    config = json.loads((folder / "whole" / "config.json").read_text())
    assert config["seed"] == 0
    assert config["versions"]["ffebm_compiler"] == fc.__version__


@pytest.mark.slow
def test_it_stops_at_ctrl_c_and_says_how_to_go_on(folder: Path) -> None:
    process = subprocess.Popen(  # a test run in the background would hand on that it ignores Ctrl-C
        [sys.executable, "train.py", "--data", "data.npz", "--epochs", "100000", "--out", "stopped"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "stopped" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in out
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "missing.npz"], "there is no such file"),
        (["--data", "data.npz", "--model", "odd_model.py:Nope"], "odd_model.py has no Nope"),
        (["--data", "data.npz", "--model", "odd_model.py"], "write MODULE:FACTORY"),
        (["--data", "data.npz", "--resume", "--out", "nothing"], "there is no nothing/checkpoint.pt"),
    ],
)
def test_bad_arguments_are_one_message(folder: Path, args: list[str], message: str) -> None:
    done = run(folder, *args)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


TWO = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.left, self.out = nn.Embedding(5, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, image, word):
        return self.out(torch.tanh(self.left(image) + self.words(word)))
"""


@pytest.mark.slow
def test_several_inputs_come_by_name(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    image = (rng.normal(size=(120, 4)) + 3 * np.eye(4)[y]).astype("float32")
    np.savez(tmp_path / "two.npz", image=image, word=rng.integers(0, 5, 120), y=y)
    namespace: dict[str, type] = {}
    exec(TWO, namespace)
    fc.convert(namespace["Two"](), block_size=2).write_training_loop(tmp_path / "train.py", model="two.py:Two")
    done = run(tmp_path, "--data", "two.npz", "--epochs", "3", "--out", "out", "--lr", "0.02")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path, "out")[-1]["test_accuracy"] > 0.6


def test_what_a_script_cannot_say_is_refused_before_it_is_written(tmp_path: Path) -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.fc(x)
            return h, torch.relu(h)

    class Own(fc.TangentEP):
        pass

    model = fc.convert(Both(), block_size=2)
    with (
        model.using(estimator=Own()),
        pytest.raises(fc.OptionError, match=r"(?s)estimator Own is your own.*several values.*training_step"),
    ):
        model.write_training_loop(tmp_path / "train.py")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_model_is_refused(folder: Path) -> None:
    (folder / "other.py").write_text("from torch import nn\nmake = lambda: nn.Sequential(nn.Linear(12, 3))\n")
    done = run(folder, "--data", "data.npz", "--model", "other.py:make")
    assert done.returncode != 0
    assert "no layer 'one'" in done.stderr or "generated for other blocks" in done.stderr
