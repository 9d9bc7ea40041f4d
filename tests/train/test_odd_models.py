"""The generated step on models that are awkward to write down: layer names, nests of outputs, penalties in the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc

X = torch.randn(4, 6, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0])


def both_gradients(
    model: fc.FFEBM, x: Any, loss_fn: Callable[[Any, Any], Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    def found() -> dict[str, Tensor]:
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        return gradients

    loss = loss_fn(model(*x) if isinstance(x, tuple) else model(x), Y)
    loss.backward()
    expected = found()
    torch.testing.assert_close(model.training_step(x, Y, loss_fn), loss.detach())
    return expected, found()


def check(net: nn.Module, x: Any, loss_fn: Callable[[Any, Any], Tensor], size: int = 2, **options: Any) -> None:
    model = fc.convert(net.double(), size, **options)
    expected, found = both_gradients(model, x, loss_fn)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    assert all(float(g.norm()) > 0 for g in expected.values())


class Names(nn.Module):
    """Layers called by keywords of Python, in another alphabet, with a space and a quote."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {"class": nn.Linear(6, 6), "größe": nn.Linear(6, 6), "a 'b'": nn.LayerNorm(6), "if": nn.LayerNorm(6)}
        )
        self.add_module("lambda", nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, "lambda")(
            torch.relu(self.layers["größe"](self.layers["if"](self.layers["a 'b'"](self.layers["class"](x)))))
        )


@pytest.mark.parametrize("digital", [[], ["layers.class", "layers.größe", "lambda"]])
def test_any_name_of_a_layer(digital: list[str]) -> None:
    check(Names(), X, F.cross_entropy, digital=digital)


class Recurrent(nn.Module):
    """An LSTM's nest of results crosses a block, and is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.middle, self.decode = (
            nn.LSTM(6, 5, batch_first=True),
            nn.Linear(5, 5),
            nn.LSTM(5, 5, batch_first=True),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        out, state = self.encode(x)
        return self.decode(torch.tanh(self.middle(out)), state)


def test_nests_of_tensors() -> None:
    check(
        Recurrent(),
        torch.randn(4, 3, 6, dtype=torch.float64),
        lambda output, y: output[0].square().sum() + output[1][0].sum() - output[1][1].sum(),
    )


class Largest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return torch.max(self.b(torch.relu(self.a(x))), dim=1)


def test_named_results() -> None:
    check(Largest(), X, lambda output, y: output.values.square().sum())


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(6, 6), nn.Linear(6, 3), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.b(torch.relu(self.a(x))), self.scale


def test_a_weight_among_the_outputs() -> None:
    check(Temperature(), X, lambda output, y: F.cross_entropy(output[0] * output[1], y))


def test_a_penalty_on_the_weights() -> None:
    model = fc.convert(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double(), 2)
    expected, found = both_gradients(
        model, X, lambda output, y: F.cross_entropy(output, y) + 0.1 * sum(p.square().sum() for p in model.parameters())
    )
    assert all(torch.allclose(found[n], g, rtol=1e-10, atol=1e-12) for n, g in expected.items())
