"""Sigmoid and tanh: ``sigma = (grad G)^-1``, elementwise.

| activation | G(s)                                    | domain  |
| Sigmoid    | s log s + (1-s) log(1-s)                | [0, 1]  |
| Tanh       | [(1+s) log(1+s) + (1-s) log(1-s)]/2     | [-1, 1] |

The differences ``sigma(a + da) - sigma(a)`` are addition theorems and ``expm1``, so that an increment far below the
rounding of ``a`` keeps its relative precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import Kind, Potential
from .one_operand import activation
from .rule import Rule

aten = torch.ops.aten


def xlogx(s: Tensor) -> Tensor:
    product: Tensor = torch.special.xlogy(s, s)
    return product


def _binary_entropy(s: Tensor) -> Tensor:
    return xlogx(s) + xlogx(1 - s)


def _sigmoid_difference(a: Tensor, da: Tensor) -> Tensor:
    """sigma(b) - sigma(a) = sigma(b) (1 - sigma(a)) (1 - exp(a - b)), written from the side where exp is small."""
    return torch.where(
        da >= 0,
        -torch.expm1(-da.abs()) * torch.sigmoid(a + da) * torch.sigmoid(-a),
        torch.expm1(-da.abs()) * torch.sigmoid(a) * torch.sigmoid(-a - da),
    )


def _sigmoid_tangent(a: Tensor, da: Tensor) -> Tensor:
    return torch.sigmoid(a) * torch.sigmoid(-a) * da


def _sigmoid_tangent_at(s: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda da: aten.sigmoid_backward(da, s)


SIGMOID = Potential(
    name="sigmoid",
    energy=_binary_entropy,
    activation=torch.sigmoid,
    difference=_sigmoid_difference,
    tangent=_sigmoid_tangent,
    tangent_at=_sigmoid_tangent_at,
    overwrite=torch.sigmoid_,
    slope=0.25,
    lower=0.0,
    upper=1.0,
    kind=Kind("sigmoid", __name__),
    text="Σ[{s} log {s} + (1−{s}) log(1−{s})]",
    tex=r"\textstyle\sum\left[{s}\log {s} + (1-{s})\log(1-{s})\right]",
)


def _tanh_energy(s: Tensor) -> Tensor:
    return (xlogx(1 + s) + xlogx(1 - s)) / 2


def _tanh_difference(a: Tensor, da: Tensor) -> Tensor:
    """tanh(a) = 2 sigmoid(2a) - 1, so the sigmoid's difference serves."""
    return 2 * _sigmoid_difference(2 * a, 2 * da)


def _tanh_tangent(a: Tensor, da: Tensor) -> Tensor:
    return 4 * torch.sigmoid(2 * a) * torch.sigmoid(-2 * a) * da


def _tanh_tangent_at(s: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda da: aten.tanh_backward(da, s)


TANH = Potential(
    name="tanh",
    energy=_tanh_energy,
    activation=torch.tanh,
    difference=_tanh_difference,
    tangent=_tanh_tangent,
    tangent_at=_tanh_tangent_at,
    overwrite=torch.tanh_,
    lower=-1.0,
    upper=1.0,
    kind=Kind("tanh", __name__),
    text="½Σ[(1+{s}) log(1+{s}) + (1−{s}) log(1−{s})]",
    tex=r"\tfrac12\textstyle\sum\left[(1+{s})\log(1+{s}) + (1-{s})\log(1-{s})\right]",
)


RULES: tuple[Rule, ...] = (
    activation(
        SIGMOID,
        "1 / (1 + exp(−a))",
        nn.Sigmoid,
        (torch.sigmoid, F.sigmoid, torch.special.expit, torch.sigmoid_, aten.sigmoid.default, aten.sigmoid_.default),
        ("sigmoid", "sigmoid_"),
    ),
    activation(
        TANH,
        "tanh(a)",
        nn.Tanh,
        (torch.tanh, F.tanh, torch.tanh_, aten.tanh.default, aten.tanh_.default),
        ("tanh", "tanh_"),
    ),
)
