"""Checkpoints from anyone: what is damaged or of another training is refused, and nothing has changed then."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import compiled
from safetensors.torch import save_file
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.bundle import Contents
from ffebm_compiler.bundle.run import Trainer, checkpoint
from ffebm_compiler.bundle.run.load import runtime_of
from ffebm_compiler.errors import InputError, OptionError
from ffebm_compiler.model.converted_module import runner_of


@pytest.fixture(scope="module")
def contents() -> Contents:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        return compiled(fc.convert(net, block_size=2), (torch.randn(4, 3),))


def trainer(contents: Contents, **options: Any) -> Trainer:
    made = runtime_of(contents).trainer(**{"optimizer": "adam", "learning_rate": 0.01, **options})
    x, y = torch.linspace(-1, 1, 12).reshape(4, 3), torch.tensor([0, 1, 0, 1])
    made.step(x, y)
    return made


@pytest.fixture(scope="module")
def written(contents: Contents, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    return trainer(contents).save_checkpoint(path).read_bytes()


def unchanged(made: Trainer, path: Path, match: str | None = None) -> None:
    before = made.runtime.state_dict(), made.steps, made._random.generator.get_state()
    with pytest.raises(InputError, match=match):
        made.load_checkpoint(path)
    assert all(torch.equal(v, before[0][n]) for n, v in made.runtime.state_dict().items())
    assert made.steps == before[1]
    assert torch.equal(made._random.generator.get_state(), before[2])


def resigned(content: bytes, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> bytes:
    """The file with something else in it, and a checksum that fits."""
    document = json.loads(checkpoint._metadata(content)["ffebm_checkpoint"])
    tensors = safetensors.torch.load(content)
    change(document, tensors)
    document["sha256"] = checkpoint._checksum(document, tensors)
    return safetensors.torch.save(tensors, {"ffebm_checkpoint": json.dumps(document)})


def test_the_same_training_writes_the_same_bytes(contents: Contents, written: bytes, tmp_path: Path) -> None:
    assert trainer(contents).save_checkpoint(tmp_path / "again").read_bytes() == written


@settings(deadline=None, derandomize=True, max_examples=60)
@given(place=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(
    written: bytes, place: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(written)
    damaged[place % len(damaged)] ^= 1 << bit
    path = tmp_path_factory.mktemp("bit") / "run.safetensors"
    path.write_bytes(bytes(damaged))
    with pytest.raises(InputError):
        checkpoint.read_checkpoint(path, _present(written, path.parent))


def _present(written: bytes, folder: Path) -> checkpoint.Snapshot:
    """What a training of the same model has."""
    document = json.loads(checkpoint._metadata(written)["ffebm_checkpoint"])
    given = document["optimizer"]
    options = checkpoint.OptimizerOptions(**{**given, "betas": tuple(given["betas"])})
    tensors = safetensors.torch.load(written)
    own = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    return checkpoint.Snapshot(document["model"], 0, options, own, {}, {}, tensors["random"])


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_cut_file_is_refused(contents: Contents, written: bytes, tmp_path: Path, length: int) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(written[:length])
    unchanged(trainer(contents), path)


CHANGES: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "format": (lambda d, t: d.update(format=2), "reads the format 1"),
    "model": (lambda d, t: d.update(model="Other"), "'Other'"),
    "negative steps": (lambda d, t: d.update(steps=-1), "-1 steps"),
    "steps that are no number": (lambda d, t: d.update(steps="3"), "steps"),
    "another optimizer": (
        lambda d, t: d["optimizer"].update(name="sgd"),
        "was trained with optimizer sgd, and this training has optimizer adam",
    ),
    "another rate": (
        lambda d, t: d["optimizer"].update(learning_rate=0.5),
        "with learning_rate 0.5, and this training has learning_rate 0.01",
    ),
    "an unknown option": (lambda d, t: d["optimizer"].update(nesterov=True), "can't be read"),
    "a missing tensor": (lambda d, t: t.pop("model/0.weight"), "0.weight"),
    "a tensor too many": (lambda d, t: t.update({"model/9.weight": torch.zeros(1)}), "9.weight"),
    "another shape": (lambda d, t: t.update({"model/0.weight": torch.zeros(2, 2)}), "0.weight"),
    "another type": (lambda d, t: t.update({"model/0.weight": t["model/0.weight"].double()}), "float64"),
    "a moment of nothing": (lambda d, t: t.update({"optimizer/nothing/exp_avg": torch.zeros(1)}), "nothing"),
    "an unknown moment": (lambda d, t: t.update({"optimizer/0.weight/secret": torch.zeros(4, 3)}), "secret"),
    "a moment of another shape": (lambda d, t: t.update({"optimizer/0.weight/exp_avg": torch.zeros(1)}), "exp_avg"),
    "a missing moment": (lambda d, t: t.pop("optimizer/0.weight/exp_avg"), "remembers exp_avg_sq, step"),
    "a tensor of nothing": (lambda d, t: t.update({"what": torch.zeros(1)}), "nothing refers to"),
    "no random state": (lambda d, t: t.pop("random"), "random"),
    "another random state": (lambda d, t: t.update(random=torch.zeros(3, dtype=torch.uint8)), "random state"),
    "a negative gain": (lambda d, t: d["gains"][0]["layer_weights"].update({_first(d): -1.0}), "reverse gains"),
    "a scrambled random state": (lambda d, t: t.update(random=t["random"].flip(0)), "can't be read"),
    "a gain of another state": (lambda d, t: d["gains"][0]["layer_weights"].update(other=1.0), "reverse gains"),
    "an edge to nowhere": (lambda d, t: d["gains"][0]["norms"].append(["a", "b", 1.0]), "reverse gains"),
    "a direction too far": (lambda d, t: d["gains"][0]["directions"][0].__setitem__(2, 10**9), "can't be read"),
    "gains that are a number": (lambda d, t: d.update(gains=7), "can't be read"),
    "gains of a word": (lambda d, t: d["gains"][0].update(key="a,b|high"), "can't be read"),
}


def _first(document: Any) -> str:
    return next(iter(document["gains"][0]["layer_weights"]))


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_refused(contents: Contents, written: bytes, tmp_path: Path, change: str) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(resigned(written, CHANGES[change][0]))
    unchanged(trainer(contents), path, CHANGES[change][1])


def test_not_a_number_in_the_metadata(contents: Contents, written: bytes, tmp_path: Path) -> None:
    text = checkpoint._metadata(written)["ffebm_checkpoint"].replace('"steps": 1', '"steps": NaN')
    path = tmp_path / "run.safetensors"
    path.write_bytes(safetensors.torch.save(safetensors.torch.load(written), {"ffebm_checkpoint": text}))
    unchanged(trainer(contents), path, "NaN")


def test_a_file_that_is_too_large_is_not_read(
    contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 34)  # sparse
    unchanged(trainer(contents), path, "more than any checkpoint")


def test_where_there_is_none(contents: Contents, tmp_path: Path) -> None:
    unchanged(trainer(contents), tmp_path / "absent", "is no file")
    unchanged(trainer(contents), tmp_path, "is no file")
    with pytest.raises(OptionError, match="does not exist"):
        trainer(contents).save_checkpoint(tmp_path / "absent" / "run.safetensors")


def test_outdated_gains_stay_outdated(contents: Contents, tmp_path: Path) -> None:
    made = trainer(contents)
    made.step(
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    )  # which moves the coupling
    (gains,) = runner_of(made.runtime.model).block_gains.saved().values()
    assert gains.outdated
    resumed = trainer(contents).load_checkpoint(made.save_checkpoint(tmp_path / "run"))
    (again,) = runner_of(resumed.runtime.model).block_gains.saved().values()
    assert again.outdated
    assert again.layer_weights == gains.layer_weights
    fresh = runtime_of(replace(contents, gains={})).trainer(optimizer="adam", learning_rate=0.01)
    fresh.load_checkpoint(tmp_path / "run")
    (taken,) = runner_of(fresh.runtime.model).block_gains.saved().values()
    assert taken.layer_weights == gains.layer_weights
    assert all(torch.equal(v, gains.directions[edge]) for edge, v in taken.directions.items())


def test_a_file_of_weights_is_no_checkpoint(contents: Contents, tmp_path: Path) -> None:
    trainer = runtime_of(contents).trainer()
    save_file(trainer.runtime.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="it holds tensors, and not where a training stands"):
        trainer.load_checkpoint(tmp_path / "weights.safetensors")
