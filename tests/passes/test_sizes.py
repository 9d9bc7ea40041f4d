"""Sizes that forward computes, alone and as tuples: in digital parts, as what a block is given, and across blocks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc


class Net(nn.Module):
    """``body`` of a value and its sizes, between layers: as a part of a block where it may be."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.body = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), body

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.b(torch.relu(self.a(x))))
        out: Tensor = self.c(self.body(h, x))
        return out


def unpacked(h: Tensor, x: Tensor) -> Tensor:
    batch, rows, columns, width = x.shape
    return h.view(batch, rows * columns, width)


def rest(h: Tensor, x: Tensor) -> Tensor:
    r = x.shape[:-1]
    return h.reshape(r + (-1,))


BODIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all but the last": rest,
    "put together": lambda h, x: h.view((x.shape[0],) + x.shape[1:-1] + (-1,)),
    "whole shape": lambda h, x: h.flatten(1).view(x.shape),
    "size()": lambda h, x: h.flatten(1).reshape(x.size()),
    "size() cut": lambda h, x: h.flatten().view(x.size()[:1] + x.size()[1:]),
    "torch.Size": lambda h, x: h.flatten(1).view(torch.Size([-1, 3, 3]) + x.shape[3:]),
    "stars": lambda h, x: h.reshape(*x.shape[:2], -1).view(*x.shape[:-1], 8),
    "negative": lambda h, x: h.flatten(0, 1).reshape(-1, *x.shape[-2:]),
    "unpacked": unpacked,
    "product": lambda h, x: h.view(x.shape[0], math.prod((x.shape[1], x.shape[2])), 8),
    "arithmetic": lambda h, x: h.view(x.size(0) * x.size(1), x.shape[2], -1),
    "floor": lambda h, x: h.reshape(x.shape[0], -1, x.shape[-1] // 2 * 2),
    "batch and rows in one": lambda h, x: (lambda y: F.tanh(y).reshape(y.size(0), -1))(
        h.view(x.shape[0] * x.shape[1], 3, 8)
    ).view(-1, 8),
    "keyword": lambda h, x: torch.reshape(h, shape=x.shape[:1] + (-1, 8)),
    "list": lambda h, x: h.view([x.shape[0], -1, 8]),
    "expand": lambda h, x: h.mean((1, 2), keepdim=True).expand(x.shape) + h,
    "expand_as": lambda h, x: h[:, :1].expand(-1, *x.shape[1:3], -1) * 0.5,
    "new": lambda h, x: h + torch.ones_like(x)[: x.shape[0]],
    "zeros": lambda h, x: h + h.new_ones(x.shape[:-1] + (8,)),
    "repeat": lambda h, x: h[:, :1].repeat((1,) + x.shape[1:2] + (1, 1)),
    "narrow": lambda h, x: h.narrow(1, 0, x.shape[1] - 1),
    "unflatten": lambda h, x: h.flatten(1).unflatten(1, x.shape[1:]),
    "interpolate": lambda h, x: F.interpolate(h.permute(0, 3, 1, 2), size=x.shape[1:3]).permute(0, 2, 3, 1),
    "interpolate to half": lambda h, x: F.interpolate(h.permute(0, 3, 1, 2), size=[x.shape[1] // 2, 2]).permute(
        0, 2, 3, 1
    ),
    "pool": lambda h, x: F.adaptive_avg_pool2d(h.permute(0, 3, 1, 2), x.shape[1:3]).permute(0, 2, 3, 1),
    "batch and rows first": lambda h, x: torch.tanh(h.view(x.shape[0] * x.shape[1], -1)).view(*x.shape),
    "joined with nothing": lambda h, x: torch.cat([torch.tensor([]), h, h.new_zeros(0)], dim=-2),
    "rank": lambda h, x: h.flatten(1 - 4 + x.dim()).view(x.shape),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "moved",
    [
        lambda h: h.reshape(h.size(0) * h.size(1), 8),
        lambda h: h.transpose(-2, -3),
        lambda h: h.transpose(0, 1),
        lambda h: h.permute(1, 0, 2),
        lambda h: h.flatten(-3, -2),
        lambda h: h.unsqueeze(-4),
        lambda h: h.mean(-3),
        lambda h: torch.cat([h, h], -3),
    ],
)
def test_a_first_dimension_that_is_not_the_batch(moved: Callable[[Tensor], Tensor], size: int) -> None:
    class Read(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.b(moved(self.a(x))))
            out: Tensor = self.c(y) / y.size(0)
            return out

    net, x = Read(lambda h, x: h), torch.randn(3, 5, 8)
    torch.testing.assert_close(fc.convert(net, size, loop_gain=1e-9)(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", BODIES)
def test_a_converted_model_reads_sizes_as_the_model_does(name: str, size: int) -> None:
    net = Net(BODIES[name])
    try:
        model = fc.convert(net, size, loop_gain=1e-9)
    except fc.errors.TraceError:
        model = fc.convert(net, size, loop_gain=1e-9, example_inputs=(torch.randn(2, 3, 3, 8),))
    for batch in (2, 5):
        x = torch.randn(batch, 3, 3, 8)
        torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-5)
    x, y = (torch.randn(3, 3, 3, 8).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    model(x).square().mean().backward()
    net(y).square().mean().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-6)
