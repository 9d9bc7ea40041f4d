"""A forward that draws from a generator of its own: the program draws from the same one, and another is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.errors import ChangedError

pytestmark = pytest.mark.since("2.11", "torch.fx takes no generator as an argument, which is a TraceError")


class Noisy(nn.Module):
    """Draws as many numbers as the batch needs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.gs = nn.Linear(4, 3), torch.Generator().manual_seed(1), [torch.Generator().manual_seed(2)]

    def noise(self, n: int) -> Tensor:
        return torch.randn(n, 3, generator=self.g)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x)) + self.noise(x.shape[0])


class OfList(Noisy):
    def noise(self, n: int) -> Tensor:
        return torch.randn(n, 3, generator=self.gs[0])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("kind", [Noisy, OfList])
def test_each_call_draws_on_as_the_model_does(kind: type[Noisy], inner: bool, x: Tensor) -> None:
    net = nn.Sequential(kind(), nn.Linear(3, 2)) if inner else kind()
    model = fc.convert(net, 1)
    for n in (5, 5, 3):
        torch.testing.assert_close(model(x[:n]), net(x[:n]))
    model, net = copy.deepcopy(model), copy.deepcopy(net)
    torch.testing.assert_close(model(x), net(x))


def _assigned(model: Any) -> None:
    model.g = torch.Generator().manual_seed(7)


def _put(model: Any) -> None:
    model.gs[0] = torch.Generator().manual_seed(7)


@pytest.mark.parametrize(("kind", "change", "name"), [(Noisy, _assigned, "g"), (OfList, _put, r"gs\[0\]")])
def test_another_generator_is_named(kind: type[Noisy], change: Any, name: str, x: Tensor) -> None:
    model = fc.convert(kind(), 1)
    model(x)
    change(model)
    with pytest.raises(ChangedError, match=f"attribute {name} of {kind.__name__}: is another generator of random numb"):
        model(x)


def test_it_is_seeded_anew(x: Tensor) -> None:
    net = Noisy()
    model = fc.convert(net, 1, copy=False)
    model(x)
    for each in (net, model):
        each.g.manual_seed(3)
    torch.testing.assert_close(model(x), net(x))
