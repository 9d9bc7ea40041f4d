"""Tensors that a forward makes and writes into hold what they hold in the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc


def _zeros(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(3, 4)
    y[:, 1:] = x[:, 1:]
    return y


def _zeros_of_its_size(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], 4)
    y[:, 0] = x[:, 1]
    return y + x


def _size_as_tuple(m: Any, x: Tensor) -> Tensor:
    y = torch.ones((x.size(0), 4))
    y[:, 2] += x[:, 1]
    return y


def _of_its_shape(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(x.shape)
    for i in range(4):
        y[:, i] = x[:, i] * i
    return y


def _new_zeros(m: Any, x: Tensor) -> Tensor:
    y = x.new_zeros(3, 4)
    y.copy_(x)
    return y.mul_(2)


def _filled_in_a_loop(m: Any, x: Tensor) -> Tensor:
    y, h = torch.empty(4, 3, 4), x
    for step in range(4):
        h = torch.tanh(h) + step
        y[step] = h
    return y.mean(0)


def _twice(m: Any, x: Tensor) -> Tensor:
    scale = torch.ones(4)
    y = x + scale
    scale[1:] = 3.0
    return y + x * scale


def _before_it_is_read(m: Any, x: Tensor) -> Tensor:
    scale = torch.ones(4)
    scale[1:] = 3.0
    scale.mul_(2)
    return x * scale


def _augmented(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(3, 4)
    for _ in range(3):
        y += x
    return y


def _out(m: Any, x: Tensor) -> Tensor:
    y = torch.empty(3, 4)
    with torch.no_grad():
        torch.mul(x, 2.0, out=y)
    return y + x


def _masked(m: Any, x: Tensor) -> Tensor:
    y = torch.full((3, 4), -1.0)
    y.masked_scatter_(x > 0, x.detach())
    return y + x


def _random(m: Any, x: Tensor) -> Tensor:
    y = torch.empty(3, 4).uniform_(0.5, 1.0)
    y.mul_(x)
    return y


def _index(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(3, 4)
    return y.index_add_(0, torch.tensor([0, 2]), x[:2]) + x


def _data(m: Any, x: Tensor) -> Tensor:
    scale = torch.ones(4)
    y = x + scale
    scale.data = torch.full((4,), 2.0)
    return y * scale


def _alias(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(3, 4)
    first = y[0]
    first += x[0]
    return y + x


def _stacked(m: Any, x: Tensor) -> Tensor:
    rows = [torch.zeros(4) for _ in range(3)]
    for i, row in enumerate(rows):
        row.add_(x[i])
    return torch.stack(rows)


def _chosen(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(3, 4)
    if float(y.sum()) == 0.0:
        y[:, 0] = x[:, 0]
    return y


def _by_registry(m: Any, x: Tensor) -> Tensor:
    for buffer in m.buffers():
        buffer.mul_(0.5).add_(x.detach().mean(0))
    return x - m.seen


WRITES: tuple[Callable[[Any, Tensor], Tensor], ...] = (
    _zeros,
    _zeros_of_its_size,
    _size_as_tuple,
    _of_its_shape,
    _new_zeros,
    _filled_in_a_loop,
    _twice,
    _before_it_is_read,
    _augmented,
    _out,
    _masked,
    _random,
    _index,
    _data,
    _alias,
    _stacked,
    _chosen,
    _by_registry,
)
REFUSED = (_data, _alias, _chosen)
"""Where the model itself does it; inside of a module they make it whole."""


class Writes(nn.Module):
    def __init__(self, write: Callable[[Any, Tensor], Tensor], in_training: bool) -> None:
        super().__init__()
        self.write, self.in_training, self.a, self.b = write, in_training, nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(self.write(self, h) if self.training or not self.in_training else h)


@pytest.mark.slow
@pytest.mark.parametrize("in_training", [True, False], ids=["in training", "always"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "root"])
@pytest.mark.parametrize("write", WRITES, ids=lambda f: f.__name__)
def test_what_is_written_into_a_new_tensor_is_read(write: Any, nested: bool, in_training: bool) -> None:
    torch.manual_seed(0)
    net: nn.Module = Writes(write, in_training)
    net = nn.Sequential(net, nn.Linear(4, 2)) if nested else net
    if write in REFUSED and not nested:
        with pytest.raises(fc.TraceError, match=r"test_made_tensors.py:\d+"):
            fc.convert(net, block_size=1)
        return
    model = fc.convert(copy.deepcopy(net), block_size=1)
    for call in range(4):
        x = torch.randn(3, 4)
        results = []
        for m in (net.train(call != 2), model.train(call != 2)):
            m.zero_grad()
            torch.default_generator.manual_seed(call)
            results.append(m(x))
            results[-1].square().sum().backward()
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)
        for p, q in zip(model.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(p, q)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(model.get_buffer(name), buffer)


def test_sizes_follow_the_batch() -> None:
    net = Writes(_zeros_of_its_size, in_training=False)
    model = fc.convert(copy.deepcopy(net), block_size=1)
    for batch in (1, 2, 7):
        x = torch.randn(batch, 4)
        assert torch.equal(model(x), net(x))


class WritesByNumpy(nn.Module):
    """Writes into a tensor of its own, where PyTorch sees nothing, after it has read it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.zeros(4)
        y = self.a(x + t)
        t.numpy()[:] = 1
        return y + t


def test_a_constant_that_numpy_writes_is_no_constant() -> None:
    net = nn.Sequential(WritesByNumpy(), nn.Linear(4, 2))
    model, x = fc.convert(copy.deepcopy(net), 1, verify=False), torch.randn(3, 4)
    torch.testing.assert_close(model(x), net(x))
    with pytest.raises(fc.TraceError, match=r"test_made_tensors\.py:\d+"):
        fc.convert(WritesByNumpy(), 1, verify=False)
