"""Batch norms: what is held, what trains, and what can't be held."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc


class AlwaysBatch(nn.Module):
    """A norm that takes batch statistics in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.c(torch.relu(F.batch_norm(self.b(h), self.mean, self.variance, training=True)))


def test_a_norm_of_batch_statistics_in_evaluation_stays_digital() -> None:
    torch.manual_seed(0)
    net, x = AlwaysBatch().eval(), torch.randn(7, 4)
    model = fc.convert(net, block_size=2, loop_gain=1e-7)
    assert torch.allclose(model(x), net(x), rtol=1e-4, atol=1e-5)
    reasons = [r for d in model.program.digital_blocks for r in d.reasons.values()]
    assert any("in evaluation too" in r for r in reasons)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("norm", "moving"), [("auto", [True, False]), ("split", [True, True]), ("held", [False, False])]
)
def test_which_norms_keep_their_statistics(training: bool, norm: str, moving: list[bool]) -> None:
    """The first is before the block's first state, the second inside it."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(),
    )
    model = fc.convert(net.train(training), block_size=2, norm=norm)
    before = {k: v.clone() for k, v in model.named_buffers()}
    out = model(torch.randn(9, 4))
    out.square().sum().backward()
    for layer, moves in zip(("1", "6"), moving, strict=True):
        moved = not torch.equal(before[f"{layer}.running_mean"], model.get_buffer(f"{layer}.running_mean"))
        assert moved == (moves and training)
        assert model.get_parameter(f"{layer}.weight").grad.abs().max() > 0


def test_a_norm_without_running_statistics_is_digital() -> None:
    net = nn.Sequential(
        nn.Linear(4, 5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.BatchNorm1d(5, track_running_stats=False),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    model, x = fc.convert(net, block_size=3, norm="held"), torch.randn(9, 4)
    model(x)
    assert "running statistics" in model.program.digital_blocks[0].reasons["3"]
