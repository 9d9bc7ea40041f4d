"""What a forward writes into buffers and parameters, in every spelling: outputs, gradients and the tensors afterwards
are the model's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc


class Average(nn.Module):
    """A layer, a moving average, and a layer that reads their difference."""

    def __init__(self, write: Callable[[nn.Module, Tensor], object], first: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.write, self.first = nn.Linear(4, 5), nn.Linear(5, 2), write, first
        self.register_buffer("ema", torch.zeros(5))
        self.register_buffer("other", torch.ones(5))
        self.gain = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        if self.training and self.first:
            self.write(self, h.detach().mean(0))
        y = self.b(h * self.gain - self.ema * self.other)
        if self.training and not self.first:
            self.write(self, h.detach().mean(0))
        return y


def _by_name(net: nn.Module, m: Tensor) -> None:
    e = net.ema
    e.mul_(0.9)
    e.add_(m, alpha=0.1)


def _item(net: nn.Module, m: Tensor) -> None:
    net.ema[...] = 0.9 * net.ema + 0.1 * m


def _items(net: nn.Module, m: Tensor) -> None:
    net.ema[1:3] = m[1:3]
    net.ema[0] += 1.0


def _augmented(net: nn.Module, m: Tensor) -> None:
    net.ema *= 0.9
    net.ema += 0.1 * m


def _data(net: nn.Module, m: Tensor) -> None:
    net.ema.data = 0.9 * net.ema + 0.1 * m


def _two(net: nn.Module, m: Tensor) -> None:
    old = net.ema.clone()
    net.ema.mul_(0.9).add_(m, alpha=0.1)
    net.other.copy_(old + 1.0)


def _clamp(net: nn.Module, m: Tensor) -> None:
    net.b.weight.data.clamp_(-0.2, 0.2)


def _limit(net: nn.Module, m: Tensor) -> None:
    net.gain.data = net.gain.data.clamp(max=0.9)


SPELLINGS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "chained": lambda net, m: net.ema.mul_(0.9).add_(m, alpha=0.1),
    "through a name": _by_name,
    "data": lambda net, m: net.ema.data.mul_(0.9).add_(m, alpha=0.1),
    "set data": _data,
    "detached": lambda net, m: net.ema.detach().lerp_(m, 0.1),
    "lerp_": lambda net, m: net.ema.lerp_(m, 0.1),
    "copy_": lambda net, m: net.ema.copy_(0.9 * net.ema + 0.1 * m),
    "item": _item,
    "items": _items,
    "augmented": _augmented,
    "out": lambda net, m: torch.add(net.ema, m, out=net.ema),
    "out, read": lambda net, m: net.other.mul_(torch.add(net.ema, m, out=net.ema)),
    "foreach": lambda net, m: torch._foreach_mul_([net.ema, net.other], 0.9),
    "foreach, read": lambda net, m: (torch._foreach_add_([net.ema, net.other], [m, m]), net.ema.mul_(0.5)),
    "zero and fill": lambda net, m: (net.ema.zero_(), net.other.fill_(0.5), net.ema.add_(m)),
    "through a view": lambda net, m: net.ema.view(5, 1)[:2].fill_(0.3),
    "two": _two,
    "function": lambda net, m: torch.nn.functional.relu(net.ema.sub_(m), inplace=True),
    "weight": _clamp,
    "parameter": _limit,
}


def assert_same_in_use(net: nn.Module, model: nn.Module, x: Tensor | None = None, calls: int = 3) -> None:
    """Outputs, gradients and all tensors over a few calls, in training and then in evaluation."""
    for call in range(calls + 2):
        training = call < calls
        x = torch.randn(3, 4)
        results = []
        for m in (net.train(training), model.train(training)):
            m.zero_grad()
            torch.default_generator.manual_seed(call)
            y = m(x)
            y.square().sum().backward()
            results.append(y)
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)
        own = dict(model.named_parameters())
        for name, p in net.named_parameters():
            torch.testing.assert_close(own[name].grad, p.grad, rtol=1e-4, atol=1e-6, msg=f"gradient of {name}")
        held = model.state_dict()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(held[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "root"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_moving_average_moves_as_in_the_model(spelling: str, nested: bool, first: bool) -> None:
    torch.manual_seed(0)
    net: nn.Module = Average(SPELLINGS[spelling], first)
    if nested:
        net = nn.Sequential(net, nn.Linear(2, 3))
    assert_same_in_use(net, fc.convert(copy.deepcopy(net), block_size=1))


class ReadsBack(nn.Module):
    """Running statistics, read by others than the norm that moves them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(torch.tanh(self.a(self.a(x))))
        return h + (x - self.norm.running_mean)


def test_statistics_are_read_after_the_norm_has_moved_them() -> None:
    torch.manual_seed(0)
    net = ReadsBack()
    assert_same_in_use(net, fc.convert(copy.deepcopy(net), block_size=1))


class Hooked(nn.Module):
    """A hook on a computed tensor scales its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        h.register_hook(lambda error: error.sign())
        return self.b(h)


def test_a_hook_on_a_tensor_is_refused_where_it_stands() -> None:
    with pytest.raises(fc.TraceError, match="registers a hook"):
        fc.convert(Hooked(), block_size=1)
    net = nn.Sequential(nn.Linear(4, 4), Hooked())
    assert_same_in_use(net, fc.convert(copy.deepcopy(net), block_size=1, digital=["1"]))


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "spelling", ["chained", "through a name", "data", "items", "through a view", "out, read", "foreach, read", "two"]
)
def test_the_generated_step_writes_too(spelling: str, first: bool) -> None:
    torch.manual_seed(0)
    net = Average(SPELLINGS[spelling], first)
    model, x, y = fc.convert(copy.deepcopy(net), block_size=1), torch.randn(3, 4), torch.randn(3, 2)
    for _ in range(2):
        net.zero_grad()
        model.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        model.training_step(x, y, nn.functional.mse_loss)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(model.get_buffer(name), buffer)
        for p, q in zip(model.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)
