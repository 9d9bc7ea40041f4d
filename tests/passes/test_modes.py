"""Modes that make the same calls are one program; others are two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of


class Between(nn.Module):
    """Two layers, with what depends on the mode, or does not, between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.drop = nn.Linear(4, 4), nn.Linear(4, 2), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.between(self, self.a(x))))


def own_norm(net: nn.Module, h: Tensor, training: bool) -> Tensor:
    norm = net.norm
    return F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, training)


SAME: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "nothing": lambda net, h: h,
    "norm": lambda net, h: net.norm(h),
    "dropout layer": lambda net, h: net.drop(h),
}
DIFFERENT: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "dropout": lambda net, h: F.dropout(h, 0.5, net.training),
    "path": lambda net, h: h * 2 if net.training else h,
    "a number's type": lambda net, h: h * (True if net.training else 1.0),
    "norm by its mode": lambda net, h: own_norm(net, h, net.training),
    "norm of batch statistics": lambda net, h: own_norm(net, h, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", [*SAME, *DIFFERENT])
@pytest.mark.parametrize("export", [False, True])
def test_alike_modes_share_their_program(case: str, export: bool) -> None:
    net, x = Between({**SAME, **DIFFERENT}[case]), torch.randn(6, 4)
    model = fc.convert(net, 1, example_inputs=x if export else None)
    assert (runner_of(model).compiled.modes[True] is runner_of(model).compiled.modes[False]) == (case in SAME)
    for mode in (True, False):
        torch.manual_seed(1)
        ours = model.train(mode)(x)
        torch.manual_seed(1)
        torch.testing.assert_close(ours, net.train(mode)(x))


def test_constants_of_a_mode_are_its_own() -> None:
    """A tensor that the forward makes is no call, and each mode may make another."""
    net = Between(lambda net, h: h + torch.tensor(1.0 if net.training else 2.0))
    model, x = fc.convert(net, 1), torch.randn(6, 4)
    for mode in (True, False):
        assert torch.equal(model.train(mode)(x), net.train(mode)(x))
