"""From a module to a graph."""

from __future__ import annotations

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
        from ffebm_compiler.passes.trace import _exported

        assert _exported(net, args, {}).tracer == "torch.export"
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
