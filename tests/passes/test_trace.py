"""From a module to a graph."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc


class SameNames(nn.Module):
    """Arguments named as parameters and buffers are."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.weight = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(5, 4))
        self.register_buffer("relu", torch.randn(5))
        self.b = nn.Linear(5, 2)

    def forward(self, scale: Tensor, weight: Tensor) -> Tensor:
        h = torch.relu(nn.functional.linear(scale, self.weight) * self.scale + self.relu + weight)
        return self.b(h)


@pytest.mark.parametrize("export", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_arguments_may_be_named_as_weights(export: bool, size: int) -> None:
    torch.manual_seed(0)
    net = SameNames()
    args = torch.randn(3, 4), torch.randn(3, 5)
    inputs, others = ([a.clone().requires_grad_() for a in args] for _ in range(2))
    model = fc.convert(net, block_size=size, example_inputs=args if export else None)
    if export:
        from ffebm_compiler.passes.export.export_trace import export_trace

        assert export_trace(net, args, {}).tracer == "torch.export"
    model(*inputs).square().sum().backward()
    net(*others).square().sum().backward()
    for a, b in zip((*model.parameters(), *inputs), (*net.parameters(), *others), strict=True):
        assert torch.nn.functional.cosine_similarity(a.grad.flatten(), b.grad.flatten(), 0) > (
            0.999999 if size == 1 else 0.9
        )


class Modes(nn.Module):
    """Another graph in training: a layer, and a second result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.extra = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = torch.relu(self.a(x))
        if self.training:
            extra = self.extra(torch.tanh(h))
            h = torch.relu(self.b(torch.atan(h)))
            return self.c(h), extra
        return self.c(torch.tanh(self.b(h)))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_mode_has_its_own_graph(size: int) -> None:
    torch.manual_seed(0)
    net, x = Modes(), torch.randn(5, 4)
    model = fc.convert(net, block_size=size)
    for training in (True, False, True):
        out, expected = model.train(training)(x), net.train(training)(x)
        assert isinstance(out, tuple) == training
        for a, b in zip(out if training else [out], expected if training else [expected], strict=True):
            assert a.shape == b.shape
            assert torch.equal(a, b) or size > 1
        assert all(r.converged for r in model.relaxation)


# --- functions of the user's own -------------------------------------------------------------------------


class Sign(torch.autograd.Function):
    """Straight through: a gradient that its forward does not have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Tensor:
        return error


class Halves(torch.autograd.Function):
    """Two results, a number among the arguments, and a context of its own."""

    @staticmethod
    def forward(x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return x[:, :3].round() * scale, x[:, 3:].round()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, left: Tensor, right: Tensor) -> tuple[Tensor, None]:
        return torch.cat([left * ctx.scale, right], 1), None


class Doubled(Sign):
    """Another backward of an inherited forward."""

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Tensor:
        return 2 * error


halves = Halves.apply


class StraightThrough(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = halves(Doubled.apply(self.second(Sign.apply(self.first(x)))), 3.0)
        return self.last(left * right)


@pytest.mark.parametrize("size", [1, 2])
def test_functions_of_ones_own_keep_their_backward(size: int) -> None:
    torch.manual_seed(0)
    net, x = StraightThrough(), torch.randn(5, 4)
    before = [dict(f.__dict__) for f in (Sign, Halves, Doubled)]
    model = fc.convert(net, block_size=size)
    assert [dict(f.__dict__) for f in (Sign, Halves, Doubled)] == before
    for m in (model, copy.deepcopy(model)):
        m.zero_grad()
        net.zero_grad()
        m(x).square().sum().backward()
        net(x).square().sum().backward()
        for (name, p), q in zip(m.named_parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=name)
    assert "Sign.apply(" in model.training_code


class Exported(StraightThrough):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[0] > 1 else 2 * x)


def test_export_says_which_backward_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(fc.VerificationError, match=r"parameter first.weight: has no gradient, and one in the model"):
        fc.convert(Exported(), example_inputs=torch.randn(5, 4))
    assert "torch.export traced through Doubled, Halves, Sign" in caplog.text
