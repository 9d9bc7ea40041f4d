"""A held norm folded into the product before it, against the two in turn; and where it must not be folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import with_statistics
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import Coupling, Operation
from ffebm_compiler.rules import Reading, Role, Rule
from ffebm_compiler.rules.rule import Call
from ffebm_compiler.solve.derivatives.norm_folding import folded


def drives(*layers: nn.Module) -> list[Coupling]:
    net = nn.Sequential(*layers)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked.fill_(1000)
    model = fc.convert(net.double().eval(), block_size=4, norm="held")
    return [s.drive for b in model.blocks for s in b.block.states]


def operations(coupling: Coupling) -> list[str]:
    return [t.operation.name for t in coupling.terms]


def ranks(coupling: Coupling, x: Tensor, tensors: dict[str, Tensor]) -> dict[str, int]:
    """Of what each term gives."""
    known: dict[str, Any] = {coupling.inputs[0]: x}
    for term in coupling.terms:
        known[term.name] = term.evaluate(known, tensors)
    return {t.name: known[t.name].dim() for t in coupling.terms}


def moved(norm: nn.Module) -> nn.Module:
    """With statistics and parameters that are not those of a new norm."""
    generator = torch.Generator().manual_seed(0)
    for t in (*norm.parameters(), *norm.buffers()):
        if t.is_floating_point():
            t.data = torch.rand(t.shape, generator=generator) + 0.5
    return norm


FOLDED: list[tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = [
    (lambda: [nn.Conv2d(3, 4, 3, stride=2, padding=1), moved(nn.BatchNorm2d(4))], (2, 3, 7, 6)),
    (lambda: [nn.Conv2d(4, 4, 3, groups=2, bias=False), moved(nn.BatchNorm2d(4))], (2, 4, 5, 5)),
    (lambda: [nn.Conv2d(3, 4, 1), moved(nn.BatchNorm2d(4, affine=False, eps=0.1))], (2, 3, 4, 4)),
    (lambda: [nn.Conv1d(3, 4, 3), moved(nn.BatchNorm1d(4))], (2, 3, 6)),
    (lambda: [nn.Conv3d(2, 3, 2), moved(nn.BatchNorm3d(3))], (2, 2, 3, 4, 4)),
    (lambda: [nn.Linear(5, 4), moved(nn.BatchNorm1d(4))], (3, 5)),
]


@pytest.mark.parametrize(("make", "shape"), FOLDED)
def test_a_folded_norm_is_the_product_and_the_norm(make: Callable[[], list[nn.Module]], shape: tuple[int, ...]) -> None:
    """The value, and the gradient in the input and in every parameter."""
    layers = nn.Sequential(*make()).double().eval()
    (coupling,) = drives(*layers, nn.Tanh())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    tensors = dict((*layers.named_parameters(), *layers.named_buffers()))
    expected = layers(x)
    whole = folded(coupling, ranks(coupling, x, tensors))
    assert operations(whole)[-1] == operations(coupling)[0]
    assert "batch_norm" not in operations(whole)
    varying = [t for t in whole.terms if coupling.inputs[0] in t.operands]
    assert varying == [whole.terms[-1]], "everything else is of the weights' size"
    found = whole.evaluate({coupling.inputs[0]: x}, {p: tensors[p] for p in coupling.weights})
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    c = torch.randn_like(expected)
    wanted = [x, *layers.parameters()]
    pairs = zip(*(torch.autograd.grad(f, wanted, c) for f in (found, expected)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in pairs)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU()],
        lambda: [nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()],
        lambda: [nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU()],
    ],
)
def test_a_norm_that_follows_no_product_stays(layers: Callable[[], list[nn.Module]]) -> None:
    for coupling in drives(*layers()):
        assert folded(coupling, dict.fromkeys((t.name for t in coupling.terms), 4)) is coupling


class Twice(nn.Module):
    """The product is read by the norm and by an addition behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(self.norm(y) + y)


def test_a_product_that_is_read_elsewhere_too_stays() -> None:
    model = fc.convert(with_statistics(Twice()).eval(), block_size=2, norm="held")
    (state,) = model.blocks[0].block.states
    assert folded(state.drive, dict.fromkeys((t.name for t in state.drive.terms), 4)) is state.drive


def test_a_norm_over_another_dimension_than_the_products_channels_is_not_folded() -> None:
    """Of three-dimensional inputs a linear map has its channels last, and the norm second."""
    layers = nn.Sequential(nn.Linear(5, 4), moved(nn.BatchNorm1d(3))).double().eval()
    (coupling,) = drives(*layers, nn.Tanh())
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    tensors = dict((*layers.named_parameters(), *layers.named_buffers()))
    assert folded(coupling, ranks(coupling, x, tensors)) is coupling


@torch.fx.wrap
def squared_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return nn.functional.linear(x, weight.square(), bias)


class Squared(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return squared_linear(x, self.weight, self.bias)


def read_squared(call: Call) -> Reading:
    weight, bias = (call.as_operand(call.arguments[n]) for n in ("weight", "bias"))
    operation = Operation("linear", squared_linear, weighted=True)
    return Reading((call.as_operand(call.value()), weight, bias), operation)


def test_an_operation_that_bears_the_name_of_a_product_is_not_taken_for_it() -> None:
    rule = Rule(
        "squared",
        Role.COUPLING,
        read_squared,
        "",
        functions=(squared_linear,),
        signature=("input", "weight", "bias"),
    )
    layers = [nn.Linear(6, 8), nn.ReLU(), Squared(8, 8), moved(nn.BatchNorm1d(8)), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(8, 3)).double().eval()
    x = torch.randn(4, 6, dtype=torch.float64)
    model = fc.convert(net, 3, norm="held", loop_gain=1e-9, rules=[rule], example_inputs=x)
    with torch.no_grad():
        assert torch.allclose(model(x), net(x), atol=1e-6, rtol=0)
    (coupling,) = (s.drive for b in model.blocks for s in b.block.states if len(s.drive.terms) == 2)
    assert folded(coupling, dict.fromkeys((t.name for t in coupling.terms), 2)) is coupling
