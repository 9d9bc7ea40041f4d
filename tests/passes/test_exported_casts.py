"""Casts of a forward that torch.export traces run as they are written, whatever type the caller's autocast makes of
what they cast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Only torch.export traces it: what it does depends on a size."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.middle = nn.Linear(4, 6), nn.Linear(6, 3), middle

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.shape[0] < 100 else 2 * x
        return self.b(self.middle(torch.relu(self.a(x))))


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda h: h.float(),
    "to": lambda h: h.to(torch.bfloat16).to(dtype=torch.float32),
    "type": lambda h: h.type(torch.float32),
    "there_and_back": lambda h: torch.softmax(h.float(), -1).type_as(h),
    "to_another": lambda h: (h.float() * 3.3).to(h),
    "both_are_read": lambda h: h.float() * 3.3 + h.square(),
    "to_integers": lambda h: h + (10 * h).int(),
}


def converted(middle: Callable[[Tensor], Tensor], size: int = 1) -> tuple[fc.FFEBM, nn.Module]:
    torch.manual_seed(0)
    net = Net(middle)
    model = fc.convert(copy.deepcopy(net), size, example_inputs=X, loop_gain=1e-6)
    assert runner_of(model).mode.tracer == "torch.export"
    return model, net


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", CASTS)
def test_a_cast_under_the_callers_autocast_is_the_models(name: str, size: int) -> None:
    model, net = converted(CASTS[name], size)
    for enabled in (False, True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            mine, other = model(X), net(X)
        assert mine.dtype is other.dtype
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
        mine.float().sum().backward()


def asks(h: Tensor) -> Tensor:
    return h * (2 if h.dtype is torch.float32 else 3)


def test_a_type_that_forward_asks_for_is_held_against_each_autocast() -> None:
    """A program that was right without autocast is compared again under it."""
    model, net = converted(asks)
    torch.testing.assert_close(model(X), net(X))
    for _ in range(2):
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(fc.VerificationError, match=r"around the call(.|\n)*inside of the forward"),
        ):
            model(X)
    torch.testing.assert_close(model(X), net(X))
