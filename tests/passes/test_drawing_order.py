"""Random numbers are drawn in the order of the model, whatever the parts that it falls into."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc


class Branches(nn.Module):
    """The second branch's dropout has nothing before it, and would run first."""

    def __init__(self, functions: bool):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
        self.first, self.second, self.functions = nn.Dropout(0.3), nn.Dropout(0.3), functions

    def dropped(self, layer: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = F.dropout(x, 0.3, self.training) if self.functions else layer(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropped(self.first, torch.relu(self.b(torch.relu(self.a(x)))))
        g = torch.relu(self.c(self.dropped(self.second, x)))
        out: Tensor = self.d(h + g)
        return out


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("converted_in", [False, True])
def test_the_same_seed_gives_the_models_own_masks(size: int, functions: bool, converted_in: bool) -> None:
    net, x = Branches(functions).train(converted_in), torch.randn(4, 6)
    model = fc.convert(net, size, loop_gain=1e-9).train()
    net.train()
    torch.manual_seed(3)
    expected = net(x)
    torch.manual_seed(3)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
