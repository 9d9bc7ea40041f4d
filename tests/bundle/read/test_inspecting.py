"""What ``ffebm inspect`` shows."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_samples import variety, variety_files

from ffebm_compiler import InputError
from ffebm_compiler.bundle import BundleSummary, inspect, write_bundle
from ffebm_compiler.errors import Problem


def test_a_summary_has_what_is_in_the_bundle(tmp_path: Path) -> None:
    path = write_bundle(variety(), tmp_path / "b.ffebm")
    found = inspect(path)
    assert (found.model, found.version, found.training) == ("Variety", 1, False)
    assert found.files == {n: len(c) for n, c in variety_files().items()}
    assert found.elements == sum(variety().tensors[p].numel() for p in variety().parameters)
    assert found.parameters == len(variety().parameters)
    norm = found.parts[0]
    assert (norm.name, norm.mode, norm.layers) == ("digital1", "both", ("norm (BatchNorm2d)",))
    assert set(norm.files) == {"forward", "training", "vjp"}
    (deep,) = [b for b in found.blocks if b.layer_weights]
    assert deep.layers == ("conv2 (conv2d)", "fc1 (linear)", "fc2 (linear)")
    assert set(deep.states.values()) == {"relu", "hardtanh", "sigmoid"}
    assert deep.layer_weights["sigmoid"] == 1.0
    assert found.aliases == {"again.weight": "fc2.weight", "again.bias": "fc2.bias"}


def test_a_summary_is_text_and_json(tmp_path: Path) -> None:
    found = inspect(write_bundle(variety(), tmp_path / "b"))
    text = found.text()
    for shown in ("Variety", "digital1.training.onnx", "conv2 (conv2d)", "loop gain at most 0.1", "2 tied", "checked"):
        assert shown in text
    document = json.loads(json.dumps(found.to_dict()))
    assert document["parts"][0]["reasons"]
    assert document["checks"]


def test_what_can_not_be_read_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "b.ffebm").write_bytes(b"PK")
    with pytest.raises(InputError, match="no zip archive"):
        inspect(tmp_path / "b.ffebm")


def test_a_name_does_not_reach_the_terminal_as_a_command() -> None:
    summary = replace(inspect_of_variety(), model="\x1b]0;x\x07\u202e")
    assert "\\x1b]0;x\\x07\\u202e" in summary.text()
    assert "\x1b" not in str(InputError(Problem("bundle \x1b[31m", "is\nbad", "Go.")))


def inspect_of_variety() -> BundleSummary:
    with tempfile.TemporaryDirectory() as folder:
        return inspect(write_bundle(variety(), Path(folder, "b")))
