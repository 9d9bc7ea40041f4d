"""Softmax: ``sigma(a) = exp(a) / sum exp(a)``, with ``G(s) = sum s log s`` on the simplex."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import Kind, Potential
from .forms import parametric
from .one_operand import chosen
from .option_types import OWN_DIMENSION
from .rule import Call, Refusal, Role, Rule
from .sigmoidal import xlogx

aten = torch.ops.aten

SOFTMAX = Kind("softmax", __name__)


def _softmax_difference(a: Tensor, da: Tensor, dim: int) -> Tensor:
    p = torch.softmax(a, dim)
    da = da - (p * da).sum(dim, keepdim=True)  # a common shift changes nothing
    grow = torch.expm1(da.clamp(-1.0, 1.0))
    mean = (p * grow).sum(dim, keepdim=True)
    far = torch.softmax(a + da, dim) - p
    return torch.where(da.abs().amax(dim, keepdim=True) <= 1.0, p * (grow - mean) / (1 + mean), far)


def _along_simplex(p: Tensor, da: Tensor, dim: int) -> Tensor:
    return p * (da - (p * da).sum(dim, keepdim=True))


def _softmax_tangent(a: Tensor, da: Tensor, dim: int) -> Tensor:
    return _along_simplex(torch.softmax(a, dim), da, dim)


def _softmax_tangent_at(p: Tensor, dim: int) -> Callable[[Tensor], Tensor]:
    return partial(_along_simplex, p, dim=dim)


def softmax(dim: int) -> Potential:
    return Potential(
        name=SOFTMAX.name,
        energy=xlogx,
        activation=partial(torch.softmax, dim=dim),
        difference=partial(_softmax_difference, dim=dim),
        tangent=partial(_softmax_tangent, dim=dim),
        tangent_at=partial(_softmax_tangent_at, dim=dim),
        slope=0.5,
        lower=0.0,
        upper=1.0,
        simplex=dim,
        text="Σ {s} log {s}",
        tex=r"\textstyle\sum {s}\log {s}",
        options=dict(dim=dim),
        kind=SOFTMAX,
    )


def _softmax(call: Call) -> Potential | Refusal:
    dim = call.option("dim", None)
    if dim is None:
        return Refusal("its dimension is implicit; give dim=")
    if call.arguments.get("dtype") is not None:
        return Refusal("it changes the type of its input")
    return Refusal("it normalises over the batch") if dim == 0 else softmax(int(dim))


RULES: tuple[Rule, ...] = (
    Rule(
        "softmax",
        Role.POTENTIAL,
        chosen(_softmax),
        "exp(a) / Σ exp(a)",
        modules=(nn.Softmax,),
        functions=(torch.softmax, F.softmax, aten.softmax.int),
        methods=("softmax",),
        signature=("input", "dim", "dtype"),
        examples=((lambda: nn.Softmax(-1), (3, 5)),),
        forms={SOFTMAX: parametric(softmax, dim=OWN_DIMENSION)},
        potentials=(softmax(1),),
    ),
)
