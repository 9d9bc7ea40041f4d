"""Two ways to run a model are told apart by anything that a call does; equal ones are not, whatever they do."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ffebm_compiler.model.comparison import differences
from ffebm_compiler.model.module_state import RandomStates
from ffebm_compiler.model.observation import Observation, observed
from ffebm_compiler.passes import State


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 5), nn.Linear(5, 2), nn.Dropout(0.5)
        self.register_buffer("mean", torch.zeros(5))
        self.calls, self.seen, self.last = 0, [1], None

    def forward(self, x: Tensor) -> Any:
        return self.b(torch.relu(self.a(x)))


def frozen(net: Any, x: Tensor) -> Any:
    with torch.no_grad():
        h = torch.relu(net.a(x))
    return net.b(h)


def other_gradient(net: Any, x: Tensor) -> Any:
    h = torch.relu(net.a(x))
    return net.b(2 * h - h.detach())


def other_value(net: Any, x: Tensor) -> Any:
    return net(x) * 1.01


def other_type(net: Any, x: Tensor) -> Any:
    return (net(x),)


def narrower(net: Any, x: Tensor) -> Any:
    return net(x).half()


def without_history(net: Any, x: Tensor) -> Any:
    return net(x).detach()


def averages(net: Any, x: Tensor) -> Any:
    net.mean.mul_(0.9).add_(0.1 * net.a(x).detach().mean(0))
    return net(x)


def assigns_a_buffer(net: Any, x: Tensor) -> Any:
    net.mean = net.a(x).detach().mean(0)
    return net(x)


def counts(net: Any, x: Tensor) -> Any:
    net.calls += 1
    return net(x)


def appends(net: Any, x: Tensor) -> Any:
    net.seen.append(len(x))
    return net(x)


def keeps(net: Any, x: Tensor) -> Any:
    net.last = net.a(x)
    return net(x)


def draws(net: Any, x: Tensor) -> Any:
    net.drop(x)
    return net(x)


def draws_in_numpy(net: Any, x: Tensor) -> Any:
    np.random.rand()
    return net(x)


def draws_in_python(net: Any, x: Tensor) -> Any:
    random.random()
    return net(x)


def fails(net: Any, x: Tensor) -> Any:
    net.calls += 1
    raise ZeroDivisionError


OTHERWISE: dict[Callable[[Any, Tensor], Any], str] = {
    frozen: "parameter a.weight: has no gradient, and one in the model",
    other_gradient: "parameter a.weight: has a gradient that differs",
    other_value: "output: differs from the model's own by 1.0e-02",
    other_type: "result: is tuple([0]), the model's a tensor",
    narrower: "output: is (3, 2) float16, the model's (3, 2) float32",
    without_history: "output: the model's has a gradient, it has none",
    averages: "tensor mean: differs",
    assigns_a_buffer: "tensor mean: differs",
    counts: "attribute calls: is written here, and not by the model's forward",
    appends: "attribute seen: is written here, and not by the model's forward",
    keeps: "attribute last: is written here, and not by the model's forward",
    draws: "random numbers of torch: are drawn otherwise",
    draws_in_numpy: "random numbers of numpy: are drawn otherwise",
    draws_in_python: "random numbers of random: are drawn otherwise",
}


def look(net: nn.Module, call: Callable[[Any, Tensor], Any]) -> Observation:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    return observed(net, lambda args, kwargs: call(net, *args), (x,), {})


@pytest.mark.parametrize("call", OTHERWISE, ids=lambda f: f.__name__)
def test_whatever_a_call_does_otherwise_is_named(call: Callable[[Any, Tensor], Any]) -> None:
    torch.manual_seed(0)
    net = Net()
    plain = look(net, lambda m, x: m(x))
    found = [str(p) for p in differences(look(net, call), plain, {})]
    assert any(OTHERWISE[call] in text for text in found), found
    assert [*differences(look(net, call), look(net, call), {})] == []


@pytest.mark.parametrize("call", [*OTHERWISE, fails], ids=lambda f: f.__name__)
def test_an_observed_call_leaves_no_trace(call: Callable[[Any, Tensor], Any]) -> None:
    net = Net()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    attributes, randoms, objects = State(net), RandomStates.now(), dict(net.named_parameters())
    with contextlib.suppress(ZeroDivisionError):
        look(net, call)
    assert attributes.changes() == {}
    assert (net.calls, net.seen, net.last) == (0, [1], None)
    assert randoms.differing(RandomStates.now()) == ()
    assert all(net.get_parameter(n) is p and p.grad is None for n, p in objects.items())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_noise_excuses_a_difference_of_its_size() -> None:
    torch.manual_seed(0)
    net = Net()
    ours, theirs = look(net, other_value), look(net, lambda m, x: m(x))
    gradients = dict.fromkeys(theirs.gradients, 0.05)
    assert [*differences(ours, theirs, {"output": 0.05, **gradients})] == []
    assert [*differences(ours, theirs, {"output": 0.005, **gradients})]
