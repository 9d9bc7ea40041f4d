"""Models that fx alone would silently change: what they overwrite, alias, count, draw and hook keeps its meaning, or is
refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc


class Model(nn.Module):
    """Two layers, a buffer, and a forward of the test's."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.none, self.run = nn.Linear(6, 6), nn.Linear(6, 3), nn.Identity(), run
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def check(run: Callable[[Any, Tensor], Tensor]) -> fc.FFEBM:
    """Two calls, since the first may leave something behind."""
    torch.manual_seed(0)
    net = Model(run)
    x = torch.randn(4, 6)
    model, original = fc.convert(net, block_size=1), copy.deepcopy(net)
    for _ in range(2):
        torch.testing.assert_close(model(x), original(x), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.scale, original.scale)
    return model


def read_then_overwritten(m: Any, x: Tensor) -> Tensor:
    out = m.b(torch.relu(m.a(x))) * m.scale
    m.scale.mul_(0.5)
    return out


def read_before_and_after(m: Any, x: Tensor) -> Tensor:
    before = m.scale.clone()
    m.scale.add_(1)
    return m.b(torch.relu(m.a(x))) * before + m.scale


def overwritten_through_a_view(m: Any, x: Tensor) -> Tensor:
    m.scale[1].add_(1.0)
    return m.b(torch.relu(m.a(x))) + m.scale.view(1, -1)


def augmented(m: Any, x: Tensor) -> Tensor:
    h = torch.relu(m.a(x))
    g = h
    g += 1
    return m.b(h)


def augmented_size(m: Any, x: Tensor) -> Tensor:
    n = x.size(0)
    k = n
    k += 1
    return m.b(torch.relu(m.a(x))).reshape(n, -1) * 2


def broadcast_batch(m: Any, x: Tensor) -> Tensor:
    h = torch.relu(m.a(x[:1]) + m.a(x))
    return m.b(h.view(h.size(0), -1))


def residual_batch(m: Any, x: Tensor) -> Tensor:
    h = torch.relu(m.a(x))
    h = h + m.a(h)
    return m.b(h.view(h.shape[0], -1))


def by_keyword(m: Any, x: Tensor) -> Tensor:
    h = m.none(input=m.a(x))
    F.relu(input=h, inplace=True)
    return m.b(h)


def converted_argument(m: Any, x: Tensor) -> Tensor:
    h = x.double()
    h /= 2
    return m.b(m.a(x)) + h.float()[:, :3]


@pytest.mark.parametrize(
    "run",
    [
        read_then_overwritten,
        read_before_and_after,
        overwritten_through_a_view,
        augmented,
        augmented_size,
        broadcast_batch,
        residual_batch,
        by_keyword,
        converted_argument,
    ],
)
def test_what_is_overwritten_keeps_its_meaning(run: Callable[[Any, Tensor], Tensor]) -> None:
    check(run)


def test_a_buffer_that_is_overwritten_is_read_in_the_order_of_the_model() -> None:
    model = check(read_then_overwritten)
    assert "overwrites" in str(model.report())


@pytest.mark.parametrize(
    "alias",
    [lambda h: h.float(), lambda h: h.ravel(), lambda h: h.to(torch.float32), lambda h: h.swapdims(0, 1)],
    ids=["float", "ravel", "to", "swapdims"],
)
def test_an_alias_that_is_overwritten_is_refused(alias: Callable[[Tensor], Tensor]) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        alias(h).relu_()
        return m.b(h)

    with pytest.raises(fc.TraceError, match="overwrites a view"):
        fc.convert(Model(run))


def test_random_numbers_are_not_frozen() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.b(m.a(x) + torch.randn(6))

    with pytest.raises(fc.TraceError, match="random numbers of a fixed shape"):
        fc.convert(Model(run))
    model = fc.convert(Model(run), example_inputs=torch.randn(4, 6))
    x = torch.randn(4, 6)
    assert not torch.equal(model(x), model(x))


def test_a_conversion_leaves_random_numbers_and_buffers_alone() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.scale.mul_(0.9)
        return m.b(m.a(x) + torch.randn_like(x))

    before = torch.get_rng_state()
    net = Model(run)
    torch.set_rng_state(before)
    model = fc.convert(net)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(model.scale, torch.tensor([1.0, 2.0, 3.0]))


def test_hooks_are_run_or_refused() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3))
    seen: list[Tensor] = []
    net[0].register_forward_hook(lambda module, args, output: seen.append(output))
    model = fc.convert(net, 2)
    seen.clear()
    model(torch.randn(2, 6))
    assert len(seen) == 1
    assert not isinstance(seen[0], torch.fx.Proxy)
    assert [b.layers for b in model.blocks] == [("1",)]
    handle = net.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(fc.OptionError, match="hooks of its own"):
        fc.convert(net)
    handle.remove()
    fc.convert(net)


def test_a_forward_given_to_one_object_is_what_runs() -> None:
    net = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    net[0].forward = lambda x: 3 * x
    x = torch.randn(4, 6)
    torch.testing.assert_close(fc.convert(net)(x), torch.relu(3 * x))


class Open(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.classes = nn.Linear(6, 3), ("cat", "dog", "fox")

    def forward(self, x: Tensor, *more: Tensor, **options: Any) -> Tensor:
        return self.a(x)

    def name(self, i: int) -> str:
        return self.classes[i]


def test_open_arguments_and_attributes_of_the_model() -> None:
    net = Open()
    model = fc.convert(net)
    x = torch.randn(2, 6)
    torch.testing.assert_close(model(x), net(x))
    assert model.classes == net.classes
    assert model.name(1) == "dog"
    with pytest.raises(AttributeError, match="neither FFEBM nor the converted Open has an attribute 'clases'"):
        _ = model.clases


def test_a_batch_size_after_a_residual_does_not_split_a_block() -> None:
    assert [b.size for b in fc.convert(Model(residual_batch), 3).blocks] == [3]
