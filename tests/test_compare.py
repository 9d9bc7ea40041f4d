"""compare_gradients: exact against a hand-made oracle, honest about zero gradients, without side effects."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ffebm_compiler as fc


@pytest.fixture
def model() -> fc.FFEBM:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    )
    return fc.convert(net, block_size=3, loop_gain=0.1, tolerance=1e-6)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def test_it_agrees_and_marks_zero_gradients(model: fc.FFEBM, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = fc.compare_gradients(model, *batch, F.cross_entropy)
    assert list(found) == [n for n, _ in model.named_parameters()]
    assert [p.name for p in found.parameters if p.exact_is_zero] == ["0.bias"]
    assert found.worst.cosine > 0.999999
    assert not found.failing()
    cosine, error = found["3.weight"]
    assert cosine == pytest.approx(1, abs=1e-6)
    assert error < 1e-4


def test_a_coarse_nudge_is_seen(model: fc.FFEBM, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    with model.using(estimator=fc.OneSidedEP(beta=3.0)):
        found = fc.compare_gradients(model, *batch, F.cross_entropy)
    assert found.worst.error > 1e-2
    assert found.estimator == "OneSidedEP"


def test_a_wrong_estimator_fails(model: fc.FFEBM, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    class Reversed:
        def __call__(self, free, errors, wanted):  # type: ignore[no-untyped-def]
            return fc.CenteredEP()(free, {k: -v for k, v in errors.items()}, wanted)

    with model.using(estimator=Reversed()):
        found = fc.compare_gradients(model, *batch, F.cross_entropy)
    assert found.worst.cosine < 0
    assert "6.weight" in [p.name for p in found.failing()]


def test_the_reference_is_the_finite_difference_of_the_loss(
    model: fc.FFEBM, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The exact gradient's own oracle: central differences of the loss at the equilibrium, gains held."""
    wide = copy.deepcopy(model).double()
    x, y = batch[0].double(), batch[1]
    with wide.using(estimator=fc.Implicit(), tolerance=1e-13):
        F.cross_entropy(wide(x), y).backward()
        for name in ("0.weight", "3.weight", "3.bias", "6.weight"):
            p = wide.get_parameter(name)
            direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            step, losses = 1e-6, []
            with torch.no_grad(), wide.holding_gains():
                for side in (1, -1):
                    p.add_(side * step * direction)
                    losses.append(F.cross_entropy(wide(x), y).item())
                    p.sub_(side * step * direction)
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float((p.grad * direction).sum()), rel=1e-5)


def test_it_leaves_no_trace(model: fc.FFEBM, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    fc.compare_gradients(model, *batch, F.cross_entropy)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_it_prints_and_plots(model: fc.FFEBM, batch: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = fc.compare_gradients(model, *batch, F.cross_entropy)
    assert "exact is 0" in str(found)
    assert "worst of TangentEP" in str(found)
    assert found.plot(tmp_path / "gradients.png").stat().st_size > 5000
