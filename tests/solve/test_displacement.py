"""The displacement of a nudged phase, from zero: when it has settled, and what is said of one that is cut off."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc


class BothOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(32, 64), nn.Linear(64, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.a(x))
        return h, torch.relu(self.b(h))


def gradients(model: fc.FFEBM, x: Tensor, pulls: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Of what the pulls make of both outputs."""
    model.zero_grad()
    torch.stack([(y * pull.to(y)).sum() for y, pull in zip(model(x), pulls, strict=True)]).sum().backward()
    return [p.grad.double().flatten() for p in model.parameters()]


def found_and_exact(model: fc.FFEBM, x: Tensor, pulls: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """A model's gradients beside those of its copy in float64, which measures its own gains."""
    reference = copy.deepcopy(model).double()
    with reference.using(estimator=fc.Implicit(), tolerance=1e-12):
        exact = gradients(reference, x.double(), pulls)
    return list(zip(gradients(model, x, pulls), exact, strict=True))


def drawn(rows: int, size: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("loop_gain", [1e-4, 1e-3, 1e-2])
def test_a_state_that_no_nudge_has_reached_yet_is_not_settled(loop_gain: float) -> None:
    """Only the first state is nudged: the first sweep, from zero, begins with the other one."""
    torch.manual_seed(0)
    model = fc.convert(BothOut(), block_size=2, loop_gain=loop_gain, tolerance=1e-3)
    x, pulls = drawn(8, 32), (drawn(8, 64), torch.zeros(8, 48))
    pairs = found_and_exact(model, x, pulls)
    assert min(float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairs) > 0.9999


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("weak", [1.0, 1e-2, 1e-4])
def test_a_loss_that_pulls_at_one_state_much_harder_than_at_another(scale: float, weak: float) -> None:
    torch.manual_seed(0)
    net = BothOut()
    with torch.no_grad():
        net.b.weight.mul_(scale)
    model = fc.convert(net, block_size=2)
    x, pulls = drawn(16, 32), (drawn(16, 64), weak * drawn(16, 48))
    for a, b in found_and_exact(model, x, pulls):
        assert float((a - b).norm() / b.norm()) <= 3.8e-4


def test_a_displacement_that_is_cut_off_has_a_residual() -> None:
    """From zero it is off by its own size, not by infinity."""
    torch.manual_seed(0)
    model = fc.convert(BothOut(), block_size=2, max_sweeps=1)
    with pytest.warns(fc.ConvergenceWarning):
        gradients(model, drawn(8, 32), (drawn(8, 64), drawn(8, 48)))
    records = [r for found in model.nudged_relaxation.values() for r in found if not r.converged]
    assert records
    assert all(0 < r.residual < 10 for r in records)
