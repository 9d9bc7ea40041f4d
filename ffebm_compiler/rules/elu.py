"""ELU, CELU and SELU: ``sigma(a) = scale * (a if a > 0 else alpha * (exp(rate * a) - 1))``.

    G(s) = s^2 / (2 scale)                      above 0,
           [(d + s) log(1 + s/d) - s] / rate    below, with d = scale * alpha, on s >= -d

The difference ``sigma(a + da) - sigma(a)`` is made by ``expm1``, so that an increment far below the rounding of
``a`` keeps its relative precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import Kind, Potential
from .forms import parametric
from .one_operand import activation, chosen
from .option_types import POSITIVE
from .piecewise import split_difference
from .rule import Call, Refusal, Role, Rule

aten = torch.ops.aten

ELU, CELU = Kind("elu", __name__), Kind("celu", __name__)


@dataclass(frozen=True)
class _Elu:
    alpha: float
    scale: float
    rate: float

    def energy(self, s: Tensor) -> Tensor:
        """The integral of ``log(1 + s / (scale alpha)) / rate`` below 0."""
        depth = self.scale * self.alpha
        below = s.clamp(-depth, 0.0)
        entropy = (torch.special.xlogy(depth + below, 1 + below / depth) - below) / self.rate
        return torch.where(s > 0, s * s / (2 * self.scale), entropy)

    def activation(self, a: Tensor) -> Tensor:
        s: Tensor = aten.elu(a, self.alpha, self.scale, self.rate)
        return s

    def difference(self, a: Tensor, da: Tensor) -> Tensor:
        up, down = split_difference(a, da)
        below, rise, fall = a.clamp(max=0.0), down.clamp(min=0.0), down.clamp(max=0.0)
        curved = torch.where(  # from the upper of the two points, so that no exp overflows
            down >= 0,
            -torch.exp(self.rate * (below + rise)) * torch.expm1(-self.rate * rise),
            torch.exp(self.rate * below) * torch.expm1(self.rate * fall),
        )
        return self.scale * (up + self.alpha * curved)

    def tangent(self, a: Tensor, da: Tensor) -> Tensor:
        below = self.alpha * self.rate * torch.exp(self.rate * a.clamp(max=0.0)) * da
        return self.scale * torch.where(a > 0, da, below)

    def tangent_at(self, s: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda da: aten.elu_backward(da, self.alpha, self.scale, self.rate, True, s)


def elu(alpha: float, scale: float = 1.0, rate: float = 1.0, kind: Kind = ELU) -> Potential:
    """sigma(a) = scale * (a if a > 0 else alpha * (exp(rate * a) - 1))."""
    curve, depth = _Elu(alpha, scale, rate), scale * alpha
    half, tex_half = ("½", r"\tfrac12") if scale == 1 else (f"{1 / (2 * scale):g}·", f"{1 / (2 * scale):g}")
    times, tex_times = ("", "") if rate == 1 else (f"{1 / rate:g}·", f"{1 / rate:g}")
    tex_entropy = rf"\left[({depth:g}+{{s}})\log(1+{{s}}/{depth:g}) - {{s}}\right]"
    return Potential(
        name=kind.name,
        energy=curve.energy,
        activation=curve.activation,
        difference=curve.difference,
        tangent=curve.tangent,
        tangent_at=curve.tangent_at,
        slope=scale * max(1.0, alpha * rate),
        lower=-depth,
        text=f"{half}‖max({{s}},0)‖² + {times}Σ[({depth:g}+{{s}})log(1+{{s}}/{depth:g}) − {{s}}] over {{s}}<0",
        tex=rf"{tex_half}\lVert \max({{s}},0)\rVert^2 + {tex_times}\textstyle\sum_{{{{{{s}}<0}}}}" + tex_entropy,
        options=dict(alpha=alpha, scale=scale, rate=rate),
        kind=kind,
    )


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, as in PyTorch
SELU = elu(SELU_ALPHA, SELU_SCALE, kind=Kind("selu", __name__))


def _elu(call: Call) -> Potential | Refusal:
    alpha, scale, rate = call.option("alpha", 1.0), call.option("scale", 1.0), call.option("input_scale", 1.0)
    if not min(alpha, scale, rate) > 0:
        return Refusal(f"alpha={alpha} is not increasing, so it has no convex potential")
    return elu(float(alpha), float(scale), float(rate))


def _celu(call: Call) -> Potential | Refusal:
    alpha = call.option("alpha", 1.0)
    if not alpha > 0:
        return Refusal(f"alpha={alpha} is not increasing, so it has no convex potential")
    return elu(float(alpha), rate=1 / float(alpha), kind=CELU)


_CONSTANTS = dict(alpha=POSITIVE, scale=POSITIVE, rate=POSITIVE)
_ELU = {ELU: parametric(elu, **_CONSTANTS)}

RULES: tuple[Rule, ...] = (
    Rule(
        "elu",
        Role.POTENTIAL,
        chosen(_elu),
        "a, or alpha (exp(a) − 1) below 0",
        modules=(nn.ELU,),
        functions=(F.elu, F.elu_),
        signature=("input", "alpha", "inplace"),
        examples=((lambda: nn.ELU(0.7), (3, 5)),),
        forms=_ELU,
        potentials=(elu(0.7, 1.3, 0.4),),
    ),
    Rule(
        "elu_scaled",
        Role.POTENTIAL,
        chosen(_elu),
        "scale · a, or scale · alpha (exp(rate · a) − 1) below 0",
        functions=(aten.elu.default, aten.elu_.default),
        signature=("input", "alpha", "scale", "input_scale"),
        forms=_ELU,
    ),
    Rule(
        "celu",
        Role.POTENTIAL,
        chosen(_celu),
        "a, or alpha (exp(a/alpha) − 1) below 0",
        modules=(nn.CELU,),
        functions=(F.celu, F.celu_, torch.celu, aten.celu.default, aten.celu_.default),
        signature=("input", "alpha", "inplace"),
        examples=((lambda: nn.CELU(0.7), (3, 5)),),
        forms={CELU: parametric(partial(elu, kind=CELU), **_CONSTANTS)},
        potentials=(elu(0.5, rate=2.0, kind=CELU),),
    ),
    activation(SELU, "scaled ELU", nn.SELU, (F.selu, torch.selu, aten.selu.default, aten.selu_.default)),
)
