"""Exactly on a bound a slope is a convention: every spelling of an activation has torch's own, wherever a slope is
read.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracle import Dense
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.solve.derivatives.linearisation import Linearisation
from ffebm_compiler.solve.derivatives.phases import ExplicitLinearisation

aten = torch.ops.aten
Activation = Callable[[Tensor], Tensor]

SPELLINGS: dict[str, Activation | nn.Module] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda a: F.relu(a, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda a: a.relu(),
    "Tensor.relu_": lambda a: a.relu_(),
    "aten.relu": aten.relu.default,
    "clamp from 0": lambda a: a.clamp(0),
    "clamp(min=0)": lambda a: a.clamp(min=0),
    "torch.clamp(min=0.0)": lambda a: torch.clamp(a, min=0.0),
    "clamp_": lambda a: a.clamp_(min=0),
    "clamp_min": lambda a: a.clamp_min(0),
    "clamp_min_": lambda a: a.clamp_min_(0),
    "torch.clamp_min": lambda a: torch.clamp_min(a, 1),
    "clamp_max": lambda a: a.clamp_max(1),
    "torch.clamp_max": lambda a: torch.clamp_max(a, -1),
    "clamp(-1, 3)": lambda a: a.clamp(-1, 3),
    "clip": lambda a: a.clip(0, 6),
    "torch.clip": lambda a: torch.clip(a, -3.0, 1.0),
    "aten.clamp": lambda a: aten.clamp.default(a, 0.0, 1.0),
    "nn.ReLU6": nn.ReLU6(),
    "F.relu6": F.relu6,
    "nn.Hardtanh": nn.Hardtanh(),
    "nn.Hardtanh(0, 6)": nn.Hardtanh(0, 6),
    "nn.Hardtanh in place": nn.Hardtanh(-3, 1, inplace=True),
    "F.hardtanh": lambda a: F.hardtanh(a, 0.0, 3.0),
    "F.hardtanh from 0": lambda a: F.hardtanh(a, 0.0, float("inf")),
    "nn.Hardsigmoid": nn.Hardsigmoid(),
    "F.hardsigmoid": F.hardsigmoid,
    "nn.LeakyReLU": nn.LeakyReLU(0.3),
    "F.leaky_relu": lambda a: F.leaky_relu(a, 2.5),
    "nn.ELU": nn.ELU(0.5),
    "F.elu": lambda a: F.elu(a, 2.0),
    "nn.CELU": nn.CELU(0.5),
    "nn.SELU": nn.SELU(),
    "F.selu": F.selu,
    "nn.Hardswish": nn.Hardswish(),
    "F.hardswish": F.hardswish,
    "nn.PReLU": nn.PReLU(),
    "nn.Threshold": nn.Threshold(1.0, 1.0),
    "nn.Softshrink": nn.Softshrink(1.0),
    "nn.Hardshrink": nn.Hardshrink(1.0),
    "nn.RReLU": nn.RReLU(),
    "abs": torch.abs,
    "maximum": lambda a: torch.maximum(a, torch.zeros_like(a)),
    "gate": lambda a: a * (a > 0),
    "where": lambda a: torch.where(a > 0, a, 0.0),
    "clamp with tensors": lambda a: a.clamp(torch.zeros_like(a), torch.ones_like(a)),
}
PYTORCH = 1e-7
"""The slope of torch's hardsigmoid is a float32 of 1/6, which is no energy's."""

BOUNDS = torch.tensor([0.0, -0.0, -3.0, 3.0, -1.0, 1.0, 6.0, 0.5, 7.0, -8.0, 0.0])
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
C = torch.randn(4, len(BOUNDS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class OnBounds(nn.Module):
    """Two layers of the activation; the second's pre-activations stand exactly on bounds, whatever the input."""

    def __init__(self, activation: Activation | nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, len(BOUNDS))
        self.activation = activation
        with torch.no_grad():
            self.second.weight.zero_()
            self.second.bias.copy_(BOUNDS)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.second(self.activation(self.first(x))))


class OnlyExported(OnBounds):
    """The same with a condition that only ``torch.export`` can decide."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[1] == 3 else x


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    (model(X) * C).sum().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


EXPORTED = (
    "nn.ReLU",
    "torch.relu_",
    "clamp(min=0)",
    "clamp_",
    "clamp_max",
    "clip",
    "nn.ReLU6",
    "nn.Hardtanh",
    "nn.Hardsigmoid",
    "nn.LeakyReLU",
    "F.elu",
    "nn.Hardswish",
    "where",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [*((n, OnBounds) for n in SPELLINGS), *((n, OnlyExported) for n in EXPORTED)]
)
def test_the_gradient_on_a_bound_is_backpropagations(name: str, kind: type[OnBounds]) -> None:
    """Also in a block of two: weights of zero let no feedback through."""
    net = kind(SPELLINGS[name]).eval()
    exact = gradients(net)
    for size in (1, 2):
        model = fc.convert(net, size, example_inputs=(X,)).eval()
        for estimator in (fc.TangentEP(), fc.Implicit(), fc.Unrolled(), Dense()):
            with model.using(estimator=estimator):
                found = gradients(model)
            for n, g in exact.items():
                torch.testing.assert_close(found[n], g, rtol=PYTORCH, atol=1e-12, msg=f"{n}, {size}, {estimator}")


def test_no_pre_activation_is_computed_again_for_a_closed_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slope is kept from the free phase: one boolean a state."""

    def again(linear: object) -> None:
        raise AssertionError

    used = [fc.convert(OnBounds(SPELLINGS["clip"]), size) for size in (1, 2)]
    for model in used:
        gradients(model)  # a first use verifies
    for kind in (Linearisation, ExplicitLinearisation):
        monkeypatch.setattr(kind, "_activations", property(again))
    for model in used:
        gradients(model)
