"""The generated script under torchrun: two processes take the steps of one, one of them writes, and Ctrl-C
stops both.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ffebm_compiler as fc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this build has no torch.distributed"),
]

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(12, 16), nn.Linear(16, 16)
        self.three, self.four = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.one(x))
        return self.four(torch.tanh(self.three(h + torch.tanh(self.two(h)))))
"""

DRIVER = """
import functools, json, os, sys
import torch.distributed as dist
import train

begin, rank = dist.init_process_group, int(os.environ["RANK"])
for name, options in json.loads(sys.argv[1]).items():
    # torchrun's store still has the addresses of the group before: each gets one of its own
    place = f"file://{os.getcwd()}/{name}.meet"
    dist.init_process_group = functools.partial(begin, init_method=place, rank=rank, world_size=2)
    try:
        found = train.main([*options, "--out", name])
    except SystemExit as leaving:
        found = leaving.code
        if dist.is_initialized():  # it was to end the process
            dist.destroy_process_group()
    with open(f"{name}.{rank}", "w") as file:
        file.write(str(found))
"""

COMMON = ["--data", "data.npz", "--batch-size", "20", "--optimizer", "sgd", "--lr", "0.1"]
WAYS = {
    "plain": [],
    "accumulate": ["--accumulate", "3"],
    "bfloat16": ["--amp", "bfloat16"],
    "float16": ["--amp", "float16", "--accumulate", "2"],
    "workers": ["--workers", "1"],
    "adam": ["--optimizer", "adam", "--lr", "0.01", "--weight-decay", "0.1"],
}
ROUNDINGS = {"bfloat16": 2e-2, "float16": 2e-3}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def write_files(folder: Path) -> None:
    (folder / "net.py").write_text(MODEL)
    (folder / "drive.py").write_text(DRIVER)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 112)  # 101 to train with: the last batch has one sample, and one of two processes none
    x = rng.normal(size=(112, 12)) + 2 * np.eye(12)[y]
    y[::7] = -100  # which cross entropy ignores
    np.savez(folder / "data.npz", x=x.astype("float32"), y=y)
    np.savez(folder / "infinite.npz", x=x.astype("float32"), y=np.full((112, 3), np.inf, "float32"))
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    model = fc.convert(
        namespace["Net"](), block_size=2, loop_gain=0.1, tolerance=1e-7
    )  # a batch stops as one, its parts each
    model.write_training_loop(folder / "train.py", "net.py:Net")


def in_this_process(folder: Path, out: str, *options: str) -> int:
    spec = importlib.util.spec_from_file_location("train", folder / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng():
        found: int = module.main([*COMMON, *options, "--out", out])
    return found


def weights(folder: Path, out: str) -> dict[str, Tensor]:
    return torch.load(folder / out / "weights.pt", weights_only=True)  # type: ignore[no-any-return]


def rows(folder: Path, out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()]


def require_same(
    found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor], within: float
) -> None:
    """The way that weights went, relative to its length."""
    assert list(found) == list(expected)
    for n, w in expected.items():
        assert (found[n] - w).norm() <= within * (w - start[n]).norm(), n
        assert not torch.equal(w, start[n]), n


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what one process finds in ``one-NAME`` and two in ``two-NAME``."""
    folder = tmp_path_factory.mktemp("distributed")
    write_files(folder)
    runs = {f"two-{name}": [*COMMON, *options, "--epochs", "2"] for name, options in WAYS.items()}
    runs |= {
        "small": [*COMMON, "--batch-size", "3", "--accumulate", "2"],
        "diverging": [*COMMON, "--data", "infinite.npz", "--loss", "mse"],
        "elsewhere": [*COMMON, "--data", "nowhere.npz"],
    }
    two = subprocess.Popen(
        [*TORCHRUN, "drive.py", json.dumps(runs)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert in_this_process(folder, "start", "--epochs", "0") == 0
        for name, options in WAYS.items():
            assert in_this_process(folder, f"one-{name}", *options, "--epochs", "2") == 0
    finally:
        os.chdir(before)
    out, err = two.communicate(timeout=240)
    (folder / "stdout").write_text(out)
    (folder / "stderr").write_text(err)
    assert two.returncode == 0, err
    return folder


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_take_the_steps_of_one(folder: Path, name: str) -> None:
    found, expected = weights(folder, f"two-{name}"), weights(folder, f"one-{name}")
    require_same(found, expected, weights(folder, "start"), ROUNDINGS.get(name, 2e-5))
    for a, b in zip(rows(folder, f"one-{name}"), rows(folder, f"two-{name}"), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=ROUNDINGS.get(name, 1e-5))
        assert a["test_loss"] == pytest.approx(b["test_loss"], rel=ROUNDINGS.get(name, 1e-5))
        assert (a["test_accuracy"], a["train_converged"]) == (b["test_accuracy"], b["train_converged"])


@pytest.mark.parametrize("name", ["accumulate", "workers"])
def test_pieces_and_workers_change_nothing(folder: Path, name: str) -> None:
    found, expected = weights(folder, f"two-{name}"), weights(folder, "two-plain")
    require_same(found, expected, weights(folder, "start"), 2e-5)


def test_one_process_writes_and_speaks(folder: Path) -> None:
    text = (folder / "stdout").read_text()
    assert text.count("epoch 1: ") == text.count("epoch 2: ") == len(WAYS)
    assert text.count("weights of the original model") == len(WAYS)
    for name in WAYS:
        out = folder / f"two-{name}"
        assert sorted(p.name for p in out.iterdir()) == ["checkpoint.pt", "config.json", "metrics.jsonl", "weights.pt"]
        assert [r["epoch"] for r in rows(folder, out.name)] == [1, 2]
        assert json.loads((out / "config.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("name", "message", "everyone"),
    [
        ("small", "--batch-size 3: is less than a sample for each of 2 processes", False),
        ("diverging", "the loss is inf; lower --lr", False),
        ("elsewhere", "nowhere.npz: there is no such file", True),
    ],
)
def test_what_stops_one_stops_both(folder: Path, name: str, message: str, everyone: bool) -> None:
    """With one message, where it is sure that all processes find the same."""
    assert message in (folder / f"{name}.0").read_text()
    other = (folder / f"{name}.1").read_text()
    assert message in other if everyone else other == "1"


def test_ctrl_c_stops_both_and_training_goes_on(folder: Path) -> None:
    process = subprocess.Popen(  # as a terminal does: the signal goes to all processes
        [*TORCHRUN, "train.py", *COMMON, "--epochs", "100000", "--workers", "1", "--out", "stopped"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "stopped" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    (said,) = re.findall(r"stopped in epoch (\d+); go on after epoch \d+ with --resume", out)
    assert "train.py" not in err, err
    epochs = [*COMMON, "--epochs", str(int(said) + 1), "--out", "stopped", "--resume"]
    went_on = subprocess.run([*TORCHRUN, "train.py", *epochs], cwd=folder, capture_output=True, text=True, timeout=120)
    assert went_on.returncode == 0, went_on.stderr
    assert [r["epoch"] for r in rows(folder, "stopped")] == [*range(1, int(said) + 2)]
