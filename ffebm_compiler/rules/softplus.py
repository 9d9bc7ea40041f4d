"""Softplus: ``sigma(a) = log(1 + exp(beta a)) / beta``, with ``G(s) = s^2/2 + Li2(exp(-beta s)) / beta^2`` on s > 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import Kind, Potential
from .forms import parametric
from .one_operand import chosen
from .option_types import NUMBER, POSITIVE, OptionType
from .rule import Call, Refusal, Role, Rule

aten = torch.ops.aten

SOFTPLUS = Kind("softplus", __name__)


class _SoftplusCorrection(torch.autograd.Function):
    """Li2(exp(-u)) for u >= 0, by its power series reflected at 1/2 (Abramowitz & Stegun 27.7).

    The derivative is log(1 - exp(-u)) in closed form, the series being poor at u -> 0.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        z = torch.exp(-u).clamp(max=1.0)
        small = torch.where(z <= 0.5, z, 1 - z)
        series, power = torch.zeros_like(z), torch.ones_like(z)
        for k in range(1, 55):  # 0.5^55 / 55^2 is below the rounding of float64
            power = power * small
            series = series + power / k**2
        reflected = math.pi**2 / 6 - torch.special.xlog1py(torch.log(z), -z) - series
        return torch.where(z <= 0.5, series, reflected)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return error * torch.log(-torch.expm1(-u))


def _softplus_energy(s: Tensor, beta: float) -> Tensor:
    correction: Tensor = _SoftplusCorrection.apply(beta * s)
    return s * s / 2 + correction / beta**2


def _softplus_difference(a: Tensor, da: Tensor, beta: float) -> Tensor:
    b = beta * da
    # log1p(sigmoid(a) expm1(b)), which cancels in its turn where b is large
    near = torch.log1p(torch.sigmoid(beta * a) * torch.expm1(b.clamp(-1.0, 1.0)))
    far = F.softplus(beta * (a + da)) - F.softplus(beta * a)
    return torch.where(b.abs() <= 1.0, near, far) / beta


def _softplus_tangent(a: Tensor, da: Tensor, beta: float, threshold: float) -> Tensor:
    return torch.where(beta * a > threshold, da, torch.sigmoid(beta * a) * da)


def _softplus_tangent_at(s: Tensor, beta: float, threshold: float) -> Callable[[Tensor], Tensor]:
    straight = threshold + math.log1p(math.exp(-threshold))  # beta s at the threshold; beyond, PyTorch's slope is 1
    return partial(torch.mul, torch.where(beta * s > straight, 1.0, -torch.expm1(-beta * s)))


def softplus(beta: float, threshold: float = 20.0) -> Potential:
    """sigma(a) = log(1 + exp(beta a)) / beta; PyTorch takes a itself where beta a exceeds the threshold."""
    return Potential(
        name=SOFTPLUS.name,
        energy=partial(_softplus_energy, beta=beta),
        activation=partial(F.softplus, beta=beta, threshold=threshold),
        difference=partial(_softplus_difference, beta=beta),
        tangent=partial(_softplus_tangent, beta=beta, threshold=threshold),
        tangent_at=partial(_softplus_tangent_at, beta=beta, threshold=threshold),
        lower=0.0,
        text=f"½‖{{s}}‖² + Σ Li₂(exp(−{beta:g}{{s}}))/{beta * beta:g}",
        tex=r"\tfrac12\lVert {s}\rVert^2 + \textstyle\sum \mathrm{{Li}}_2"
        rf"(e^{{{{-{beta:g}{{s}}}}}})/{beta * beta:g}",
        options=dict(beta=beta, threshold=threshold),
        kind=SOFTPLUS,
    )


CURVED = 15
"""Up to here a softplus is still curved."""


def _softplus(call: Call) -> Potential | Refusal:
    beta, threshold = call.option("beta", 1.0), call.option("threshold", 20.0)
    if not beta > 0:
        return Refusal(f"beta={beta} is not positive")
    if threshold < CURVED:
        return Refusal(
            f"threshold={threshold} makes it a straight line where it is still curved, "
            "so it is not the softplus of the energy"
        )
    return softplus(float(beta), float(threshold))


_THRESHOLD = OptionType(f"a number from {CURVED}", lambda value: NUMBER.holds(value) and value >= CURVED)

RULES: tuple[Rule, ...] = (
    Rule(
        "softplus",
        Role.POTENTIAL,
        chosen(_softplus),
        "log(1 + exp(beta a)) / beta",
        modules=(nn.Softplus,),
        functions=(F.softplus, aten.softplus.default),
        signature=("input", "beta", "threshold"),
        examples=((lambda: nn.Softplus(2.0), (3, 5)),),
        forms={SOFTPLUS: parametric(softplus, beta=POSITIVE, threshold=_THRESHOLD)},
        potentials=(softplus(1.0), softplus(3.0), softplus(0.6)),
    ),
)
