"""Options of the generated script, in this process: what must not change a training doesn't, and what can't be is
named.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ffebm_compiler as fc

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.two, self.three = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.drop(torch.tanh(self.norm(self.one(x))))
        return self.three(torch.tanh(self.two(h)))
"""


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    x = (rng.normal(size=(60, 6)) + np.eye(6)[y]).astype("float32")
    np.savez("data.npz", x=x, y=y)
    np.savez("shares.npz", x=x, y=np.eye(3, dtype="float32")[y])
    np.savez("narrow.npz", x=x, y=rng.normal(size=60).astype("float32"))
    y[:], y[:4] = -100, 1
    np.savez("ignored.npz", x=x, y=y, x_test=x, y_test=np.full(60, -100))
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    fc.convert(namespace["Net"](), block_size=2).write_training_loop("train.py", "net.py:Net")
    spec = importlib.util.spec_from_file_location("train", "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda out, *options: module.main(["--out", out, "--data", "data.npz", "--batch-size", "16", *options])


def weights(out: str) -> dict[str, Tensor]:
    return torch.load(Path(out, "weights.pt"), weights_only=True)  # type: ignore[no-any-return]


def test_a_resumed_training_draws_what_an_uninterrupted_one_draws(main: Any) -> None:
    assert main("whole", "--epochs", "3", "--amp", "float16") == 0
    assert main("parts", "--epochs", "1", "--amp", "float16", "--workers", "1") == 0
    torch.rand(7)
    assert main("parts", "--epochs", "3", "--amp", "float16", "--resume") == 0
    whole, parts = weights("whole"), weights("parts")
    assert all(torch.equal(w, parts[n]) for n, w in whole.items())


def test_targets_that_are_shares_of_classes(main: Any) -> None:
    """Of one class each they are its labels."""
    for out, data in (("labels", "data.npz"), ("shares", "shares.npz")):
        assert main(out, "--data", data, "--epochs", "2", "--optimizer", "sgd", "--lr", "0.1") == 0
    for n, w in weights("labels").items():
        torch.testing.assert_close(weights("shares")[n], w)


def test_batches_in_which_no_target_counts(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("ignored", "--data", "ignored.npz", "--epochs", "2") == 0
    assert "nan" not in capsys.readouterr().out
    assert all(bool(torch.isfinite(w).all()) for w in weights("ignored").values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "narrow.npz", "--loss", "mse"], r"--loss mse: the model's output is \(16, 3\) and y \(16,\)"),
        (["--accumulate", "20"], "--batch-size 16: is less than a sample for each of 1 processes in --accumulate 20"),
        (["--batch-size", "53"], "--batch-size 53: leaves a process a piece of one sample, which a batch norm can't"),
    ],
)
def test_what_cannot_be_is_named(main: Any, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main("out", *options)


@pytest.mark.parametrize("option", ["--batch-size", "--accumulate", "--workers", "--seed", "--epochs"])
def test_numbers_that_make_no_sense_are_named(main: Any, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main("out", option, "-1")
    assert f"argument {option}: -1 is less than" in capsys.readouterr().err


def test_processes_beyond_the_gpus_are_refused(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "64", "WORLD_SIZE": "65"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="process 64 of this machine has no GPU of its own"):
        main("out", "--device", "cuda")
    with pytest.raises(SystemExit, match="--device cuda:0: is one device for 65 processes; write --device cuda"):
        main("out", "--device", "cuda:0")
