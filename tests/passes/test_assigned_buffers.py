"""What a forward writes while torch.export runs it: kept as a write, or refused by name; torch.export would drop it
without a word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.passes.trace import trace


class Keeps(nn.Module):
    """``write`` is called with the module and its input, in a forward that torch.export alone can trace."""

    def __init__(self, write: Callable[[Any, Tensor], None]):
        super().__init__()
        self.a, self.write = nn.Linear(6, 6), write
        self.register_buffer("mean", torch.zeros(6))
        self.calls, self.last = 0, None
        self.started = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) - self.mean
        self.write(self, x)
        return (y + self.mean) * 2 if y.dtype == torch.float32 else y


class Around(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.head = inner, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        y: Tensor = self.head(h)
        return y * 2 if y.dtype == torch.float32 else y


def average(m: Any, x: Tensor) -> None:
    m.mean = 0.9 * m.mean + 0.1 * x.detach().mean(0)


def average_twice(m: Any, x: Tensor) -> None:
    average(m, x)
    m.mean = m.mean * 2


def set_data(m: Any, x: Tensor) -> None:
    m.mean.data = 0.9 * m.mean + 0.1 * x.detach().mean(0)


def other_shape(m: Any, x: Tensor) -> None:
    m.mean = x.detach().mean()


def other_data(m: Any, x: Tensor) -> None:
    m.mean.data = x.detach().mean()


def parameter(m: Any, x: Tensor) -> None:
    m.a.weight = nn.Parameter(torch.zeros(6, 6))


def attribute(m: Any, x: Tensor) -> None:
    m.last = x.detach().mean()


def counter(m: Any, x: Tensor) -> None:
    m.calls += 1


def first_call(m: Any, x: Tensor) -> None:
    if not m.started:
        m.mean.add_(1.0)
        m.started = True


def first_result(m: Any, x: Tensor) -> None:
    if not m.started:
        m.started = True
        m.mean.add_(x.detach().mean(0))


@pytest.mark.parametrize("write", [average, average_twice, set_data], ids=lambda f: f.__name__)
@pytest.mark.parametrize("nested", [False, True])
def test_a_buffer_that_export_would_forget_is_written(write: Callable[..., None], nested: bool) -> None:
    net: nn.Module = Around(Keeps(write)) if nested else Keeps(write)
    assert trace(copy.deepcopy(net), False, (torch.randn(4, 6),)).tracer == "torch.export"
    model = fc.convert(net, 1, example_inputs=torch.randn(4, 6))
    for _ in range(3):
        x = torch.randn(4, 6)
        torch.testing.assert_close(model(x), net(x))
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(model.network.get_buffer(name), buffer)


REFUSED = {
    other_shape: "mean", other_data: "of another shape", parameter: "weight", attribute: "attribute 'last'",
    counter: "attribute 'calls'", first_call: "attribute 'started'", first_result: "attribute 'started'",
}  # fmt: skip


@pytest.mark.parametrize("write", REFUSED, ids=lambda f: f.__name__)
def test_what_no_graph_holds_is_refused_by_name(write: Callable[..., None]) -> None:
    net = Keeps(write)
    before = copy.deepcopy(net.state_dict()), net.calls, net.last, net.started
    with pytest.raises(fc.TraceError, match=REFUSED[write]):
        fc.convert(net, 1, example_inputs=torch.randn(4, 6), copy=False)
    after = copy.deepcopy(net.state_dict()), net.calls, net.last, net.started
    assert after[1:] == before[1:]
    torch.testing.assert_close(after[0], before[0])


def test_lists_that_modules_share_are_shared_still() -> None:
    net = Around(Keeps(lambda m, x: None))
    net.shared = net.inner.shared = [0.5]  # type: ignore[assignment]
    traced = trace(net, False, (torch.randn(4, 6),))
    assert traced.tracer == "torch.export"
    assert net.shared is net.inner.shared
