"""A graph that does not compute what PyTorch does never reaches a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler import bundle, runtime
from ffebm_compiler.bundle import Contents
from ffebm_compiler.bundle.compile.graph_check import without, wrong_graphs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4))
    path = fc.convert(net).compile_to(tmp_path_factory.mktemp("made") / "net", (torch.randn(3, 5),))
    return bundle.read_bundle(path)


def test_graphs_that_are_right_pass(contents: Contents) -> None:
    assert len(contents.graphs) == 6
    assert wrong_graphs(contents) == ()


@pytest.mark.parametrize(
    "what", ["evaluation/value", "training/output", "training/statistics", "training/gradient", "training/norm"]
)
def test_one_that_differs_is_told(contents: Contents, what: str) -> None:
    """Whichever result it is: a value, a statistic, an error, the gradient of a parameter."""
    results = [n for n in contents.samples if n.startswith(what) and "input" not in n and n != "evaluation/value/_0"]
    for name in results:
        off = replace(contents, samples={**contents.samples, name: contents.samples[name] * 1.5 + 1})
        if wrong := wrong_graphs(off):
            assert "differs from PyTorch" in wrong[0].reason
            assert wrong[0].part in off.graphs or f"{wrong[0].part}.onnx" in off.graphs
            return
    pytest.fail(f"no graph is held to {results}")


def test_without_leaves_the_others(contents: Contents) -> None:
    samples = {n: t + 1 if n.startswith("training/statistics") else t for n, t in contents.samples.items()}
    wrong = wrong_graphs(replace(contents, samples=samples))
    left = without(contents, wrong)
    assert {(r.part, r.kind) for r in left.refused} == {(r.part, r.kind) for r in wrong} != set()
    assert len(left.graphs) == len(contents.graphs) - len(wrong)


class Grid(nn.Module):
    """The backward pass of affine_grid loads in onnxruntime, and fails when it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.head = nn.Linear(6, 6), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.place(x).view(-1, 2, 3), [x.shape[0], 1, 4, 4], align_corners=False)
        found: Tensor = self.head(grid.flatten(1))
        return found


def test_one_that_loads_but_does_not_run_is_refused_or_skipped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, x = fc.convert(Grid()).eval(), torch.randn(3, 6)
    with pytest.raises(fc.OptionError, match=r"affine_grid.*can't run its graph"):
        model.compile_to(tmp_path / "net", (x,))
    assert not (tmp_path / "net").exists()
    loaded = runtime.load(model.compile_to(tmp_path / "net", (x,), unexportable="skip"))
    torch.testing.assert_close(loaded(x), model(x))
    assert capfd.readouterr().err == ""
