"""One spelling for everything that means the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc


class OverwrittenTwice(nn.Module):
    """One in-place activation, called twice, its result never taken: the overwritten tensor is read instead."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.activation(h)
        h = self.b(h)
        self.activation(h)
        return self.c(h)


@pytest.mark.parametrize("training", [True, False])
def test_every_use_of_an_in_place_module_overwrites(training: bool) -> None:
    torch.manual_seed(0)
    net = OverwrittenTwice().train(training)
    x = torch.randn(6, 4)
    model = fc.convert(net, block_size=1)
    assert torch.equal(model(x), net(x))
    assert all("activation" in b.states for b in model.blocks[:1])
    assert net.activation.inplace
    assert model.to_feedforward().activation.inplace


def test_the_mode_that_is_not_traced_first_overwrites_too() -> None:
    torch.manual_seed(0)
    net = OverwrittenTwice()
    model = fc.convert(net, block_size=1)
    x = torch.randn(6, 4)
    assert torch.equal(model.eval()(x), net.eval()(x))
    assert torch.equal(copy.deepcopy(model).train()(x), net.train()(x))


class Unread(nn.Module):
    """Calls whose results are dropped: one with a side effect, one without."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.BatchNorm1d(4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(x)
        h = torch.relu(self.a(x))
        self.a(x)
        return self.b(h)


def test_a_call_that_nothing_reads_stays_digital_and_has_its_effect() -> None:
    net, x = Unread(), torch.randn(6, 4)
    model = fc.convert(net, block_size=2)
    assert torch.equal(fc.convert(net, block_size=1)(x), net(x))
    model(x)
    assert torch.equal(model.norm.running_mean, net.norm.running_mean)
    assert [b.layers for b in model.blocks] == [("a", "b")]


def _overwrite_flat(net: nn.Module, x: Tensor) -> Tensor:
    h = net.a(x)
    h.view(-1).relu_()
    return net.b(h)


def _overwrite_base(net: nn.Module, x: Tensor) -> Tensor:
    h = net.a(x)
    v = h.view(-1, 1, 6)
    h.relu_()
    return net.b(v.squeeze(1))


def _overwrite_slice(net: nn.Module, x: Tensor) -> Tensor:
    h = net.a(x)
    torch.relu_(h[:, :3])
    return net.b(h)


def _overwrite_view_alone(net: nn.Module, x: Tensor) -> Tensor:
    h = net.a(x).flatten(1)
    h.relu_()
    return net.b(h)


def _overwrite_one_result(net: nn.Module, x: Tensor) -> Tensor:
    h, winners = torch.max(net.a(x).view(-1, 2, 3), dim=1)
    h.relu_()
    return net.b(torch.cat([h, winners.to(h.dtype)], 1))


def _overwrite_beside_an_identity(net: nn.Module, x: Tensor) -> Tensor:
    h = net.a(x)
    shortcut = net.shortcut(h)
    return net.b(net.c(torch.relu_(h)) + shortcut)


def _overwrite_behind_a_layer(net: nn.Module, x: Tensor) -> Tensor:
    h = net.a(x)
    net.flatten(h).relu_()
    return net.b(h)


def _overwrite_by_out(net: nn.Module, x: Tensor) -> Tensor:
    h = net.a(x)
    g = torch.zeros_like(h)
    torch.add(h, h * 0.5, out=g)
    return net.b(torch.relu(g))


class Overwrites(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.shortcut, self.flatten, self.c = nn.Identity(), nn.Flatten(), nn.Linear(6, 6)
        self.a, self.b, self.how = nn.Linear(4, 6), nn.Linear(6, 2), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


@pytest.mark.parametrize("how", [_overwrite_flat, _overwrite_base, _overwrite_slice, _overwrite_behind_a_layer])
def test_overwriting_through_a_view_is_an_error_not_another_result(how) -> None:
    with pytest.raises(fc.TraceError, match="overwrites a view"):
        fc.convert(Overwrites(how), block_size=1)


@pytest.mark.parametrize(
    "how", [_overwrite_view_alone, _overwrite_one_result, _overwrite_beside_an_identity, _overwrite_by_out]
)
def test_overwriting_what_nothing_else_reads_is_fine(how) -> None:
    net, x = Overwrites(how), torch.randn(5, 4)
    with torch.no_grad():
        assert torch.equal(fc.convert(net, block_size=1)(x), net(x))
