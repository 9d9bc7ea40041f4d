"""Random programs of views and in-place calls mean what PyTorch does, or are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import ffebm_compiler as fc
from ffebm_compiler.passes import canonicalize, trace
from ffebm_compiler.rules import RULES

CALLS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda h: h * 1.5,
    lambda h: h.view(6, 4),
    lambda h: h.t().reshape(6, 4),
    lambda h: h[:, :],
    torch.tanh,
    lambda h: h.add_(1.0),
    lambda h: h.mul_(0.5),
    torch.relu_,
    lambda h: torch.nn.functional.elu(h, inplace=True),
    lambda h: h.clone(),
    lambda h: h.zero_(),
    lambda h: h.fill_(0.5),
    lambda h: h.copy_(h * 2.0 + 1.0),
    lambda h: h.bernoulli_(0.5),
    lambda h: h.data.add_(1.0),
    lambda h: torch.add(h, 1.0, out=h),
    lambda h: _item(h, 0.25),
    lambda h: _slice(h),
    lambda h: _made(h),
)


def _item(h: Tensor, value: float) -> Tensor:
    h[1:3] = value
    return h


def _slice(h: Tensor) -> Tensor:
    h[0] += 1.0
    return h


def _made(h: Tensor) -> Tensor:
    y = torch.zeros(24)
    y[:6] = h.reshape(-1)[:6]
    return y.reshape(h.shape)


Step = tuple[int, int]
"""Which call, of which earlier value, counted from the last."""


class Program(nn.Module):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        values = [x * 1.0]
        for call, back in self.steps:
            values.append(CALLS[call](values[-1 - back % len(values)]))
        return torch.stack([v.reshape(6, 4) for v in values[-3:]]).sum(0)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, len(CALLS) - 1), st.integers(0, 3)), max_size=8))
def test_what_is_overwritten_is_read_as_in_pytorch(steps: list[Step]) -> None:
    net, x = Program(steps), torch.randn(6, 4)
    try:
        graph = canonicalize(trace(net, False), RULES).graph
    except fc.TraceError as refusal:
        assert "overwrites a view" in str(refusal)  # noqa: PT017
        return
    torch.default_generator.manual_seed(0)
    (result,) = fx.Interpreter(net, graph=graph).run(x.clone())
    torch.default_generator.manual_seed(0)
    assert torch.equal(result, net(x.clone()))


def test_a_program_without_views_is_never_refused() -> None:
    for call in (5, 6, 7, 8):
        canonicalize(trace(Program([(0, 0), (call, 0), (4, 0), (call, 1), (0, 2)]), False), RULES)


class WritesIntoParts(nn.Module):
    """As sequence models shift their labels: parts of a new tensor, put one after the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x if x.shape[1] == 4 else -x)
        shifted = x.new_zeros(x.shape)
        shifted[..., 1:] = h[..., :-1].clone()
        shifted[..., 0] = 2.0
        shifted[0:1, 1:2] = shifted[1:2, 2:3] * 3
        return self.b(torch.relu(shifted)), shifted


@pytest.mark.parametrize("size", [1, 2])
def test_parts_of_a_new_tensor_are_put_into_it_under_export(size: int) -> None:
    net, x = WritesIntoParts(), torch.randn(5, 4).requires_grad_()
    model = fc.convert(net, size, loop_gain=1e-9, example_inputs=(torch.randn(3, 4),))
    y = x.detach().clone().requires_grad_()
    for got, expected in zip(model(x), net(y), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    model(x)[0].square().sum().backward()
    net(y)[0].square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-5)
