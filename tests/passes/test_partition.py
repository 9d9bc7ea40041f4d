"""Which call goes into which block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ffebm_compiler as fc


class SumReadTwice(nn.Module):
    """A sum without weights, read inside its block and by a later one: each gets a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.a, self.b, self.norm = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.lift(x))
        h = h + self.norm(h)
        return h + self.b(torch.tanh(self.a(h)))


def test_a_copied_call_is_read_by_those_it_was_copied_for() -> None:
    torch.manual_seed(0)
    net, x = SumReadTwice(), torch.randn(5, 4)
    for size in (1, 2):
        model = fc.convert(net, block_size=size)
        assert torch.isfinite(model(x)).all()
    assert torch.equal(fc.convert(net, block_size=1)(x), net(x))
