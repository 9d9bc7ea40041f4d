"""Training steps in several processes: synchronised as DistributedDataParallel does, or refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ffebm_compiler as fc

sys.path.insert(0, str(Path(__file__).parent))
from process_work import X, Y, gradients, made, work

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this build has no torch.distributed")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
def test_gradients_are_those_of_ddp(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        ours, _ = rank["training"]["steps"][0]
        for name, expected in rank["ddp"].items():
            if name == "unread":
                assert ours[name] is None, "an optimizer with weight decay would move it"
            else:
                torch.testing.assert_close(ours[name], expected, rtol=1e-9, atol=1e-12)


def test_gains_and_weights_stay_equal(ranks: list[dict[str, Any]]) -> None:
    """Norms of couplings are functions of the weights, whatever the samples; and weights began as those of
    process 0.
    """
    first, second = (r["training"] for r in ranks)
    for (g, gains), (h, others) in zip(first["steps"], second["steps"], strict=True):
        assert gains == others
        assert all(g[n] is None or torch.equal(g[n], h[n]) for n in g)
    assert any(g is not None for g in first["steps"][0][1])
    assert first["steps"][0][1] != first["steps"][-1][1], "they follow the weights"
    assert list(first["state"]) == list(second["state"])
    for n, t in first["state"].items():
        assert torch.equal(t, second["state"][n]), n


def test_a_step_that_nobody_synchronises_is_refused(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for way in ("step", "code", "chip"):
            text = rank["refusals"][way]
            assert text.startswith("SynchronisationError: training_step: leaves each of the 2 processes"), way
            for remedy in ("with fc.synchronised(model)", "DistributedDataParallel", "with fc.unsynchronised()"):
                assert remedy in text
        assert rank["refusals"]["apart"] == "none"


def test_what_cannot_be_synchronised_is_named(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        other, sparse = rank["refusals"]["other"], rank["refusals"]["sparse"]
        assert "weight: is (3, 3) float32, trained in process 1 and (2, 3) float32, trained in process 0" in other
        assert "bias: is (3,) float32" in other
        assert "weight: has a sparse gradient" in sparse
        assert "sparse=False" in sparse
        assert "first.weight: was moved within it, by each process on its own" in rank["refusals"]["early"]
        assert "unread" not in rank["refusals"]["early"]
        assert "optimizer.step() behind" in rank["refusals"]["early"]
        assert rank["refusals"]["bounded"] == "none"


def test_one_process_does_not_notice() -> None:
    model, loss_fn = made(0), torch.nn.functional.cross_entropy
    with fc.synchronised(model):
        model.training_step(X, Y, loss_fn)
    found = gradients(model)
    model.zero_grad()
    model.training_step(X, Y, loss_fn)
    assert all(g is None or torch.equal(g, found[n]) for n, g in gradients(model).items())
