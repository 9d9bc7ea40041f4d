"""What a forward writes into its arguments is the caller's: it is written back, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc


class Given(nn.Module):
    def __init__(self, write: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.write, self.a, self.relu = write, nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.write(self, x))


def _add(m: Any, x: Tensor) -> Tensor:
    x.add_(1.0)
    return x * 2


def _layer(m: Any, x: Tensor) -> Tensor:
    return m.relu(x)


def _part(m: Any, x: Tensor) -> Tensor:
    y = x * 3
    x[:, 1:] = 0.5
    return x + y


def _twice(m: Any, x: Tensor) -> Tensor:
    x += 1
    x.mul_(2).clamp_(max=1.0)
    return torch.tanh(x)


def _by_weights(m: Any, x: Tensor) -> Tensor:
    return x.mul_(m.a.bias.detach())


@pytest.mark.parametrize("write", [_add, _layer, _part, _twice, _by_weights], ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [1, 2])
def test_an_argument_is_overwritten_as_in_the_model(write: Callable[[Any, Tensor], Tensor], size: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Given(write), nn.Tanh(), nn.Linear(4, 2))
    model = fc.convert(copy.deepcopy(net), block_size=size)
    for _ in range(2):
        x = torch.randn(3, 4)
        given = x.clone()
        ours, theirs = model(given), net(x)
        close = {"rtol": 1e-5, "atol": 1e-6} if size == 1 else {"rtol": 0.05, "atol": 0.05}  # with feedback
        torch.testing.assert_close(given, x, **close)
        torch.testing.assert_close(ours, theirs, **close)
        for m, y in ((model, ours), (net, theirs)):
            m.zero_grad()
            y.square().sum().backward()
        if size == 1:
            for p, q in zip(model.parameters(), net.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def test_looking_at_a_model_leaves_the_sample_alone() -> None:
    model = fc.convert(nn.Sequential(Given(_add), nn.Tanh(), nn.Linear(4, 2)), block_size=1)
    x = torch.randn(3, 4)
    before = x.clone()
    model.ensure_gains(x)
    fc.convert(nn.Sequential(Given(_add), nn.Tanh(), nn.Linear(4, 2)), block_size=1, example_inputs=x)
    assert torch.equal(x, before)


def _through_a_view(m: Any, x: Tensor) -> Tensor:
    x.view(-1).add_(1.0)
    return x


def _through_a_slice(m: Any, x: Tensor) -> Tensor:
    return x[:, :4].mul_(2.0)


@pytest.mark.parametrize("write", [_through_a_view, _through_a_slice], ids=lambda f: f.__name__)
def test_an_argument_that_is_written_through_a_view_is_refused(write: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(fc.TraceError, match=r"test_written_arguments.py:\d+"):
        fc.convert(Given(write), block_size=1)


class Containers(nn.Module):
    def __init__(self, write: Callable[[Any, Tensor], None]) -> None:
        super().__init__()
        self.write, self.a = write, nn.Linear(4, 4)

    def forward(self, x: Tensor, given: Any) -> Tensor:
        h = self.a(x)
        self.write(given, h)
        return torch.relu(h)


def _append(given: Any, h: Tensor) -> None:
    given.append(h)


def _key(given: Any, h: Tensor) -> None:
    given["h"] = h


def _extend(given: Any, h: Tensor) -> None:
    given += [h]


@pytest.mark.parametrize("example", [False, True], ids=["no example", "example"])
@pytest.mark.parametrize(
    ("write", "given"), [(_append, [1]), (_key, {"a": 1}), (_extend, [1])], ids=["append", "key", "extend"]
)
def test_a_list_or_a_dict_is_filled_or_refused(write: Callable[[Any, Tensor], None], given: Any, example: bool) -> None:
    torch.manual_seed(0)
    net, x = Containers(write), torch.randn(3, 4)
    example_inputs = (x, copy.copy(given)) if example else None
    try:
        model = fc.convert(copy.deepcopy(net), block_size=1, example_inputs=example_inputs)
    except fc.TraceError as refusal:
        assert "writes into a" in str(refusal)  # noqa: PT017
        return
    ours, theirs = copy.copy(given), copy.copy(given)
    torch.testing.assert_close(model(x, ours), net(x, theirs))
    assert len(ours) == len(theirs) == 2


def test_asking_for_the_gradient_of_an_argument_is_for_the_caller_to_see() -> None:
    def asks(m: Any, x: Tensor) -> Tensor:
        return x.requires_grad_()

    net = Given(asks)
    model = fc.convert(copy.deepcopy(net), block_size=1)
    x, given = torch.randn(3, 4), torch.randn(3, 4)
    given.copy_(x)
    for m, v in ((net, x), (model, given)):
        m(v).square().sum().backward()
    torch.testing.assert_close(given.grad, x.grad)
