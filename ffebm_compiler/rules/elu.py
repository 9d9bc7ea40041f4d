"""ELU, CELU and SELU: ``sigma(a) = scale * (a if a > 0 else alpha * (exp(rate * a) - 1))``.

    G(s) = s^2 / (2 scale)    above 0,    [(d + s) log(1 + s/d) - s] / rate    below, with d = scale * alpha    on s >= -d

The difference ``sigma(a + da) - sigma(a)`` is made by ``expm1``, so that an increment far below the rounding of ``a`` keeps its
relative precision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

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


def _elu_energy(s: Tensor, alpha: float, scale: float, rate: float) -> Tensor:
    """For s = scale * alpha * (exp(rate a) - 1): the integral of log(1 + s / (scale alpha)) / rate."""
    depth = scale * alpha
    below = s.clamp(-depth, 0.0)
    entropy = (torch.special.xlogy(depth + below, 1 + below / depth) - below) / rate
    return torch.where(s > 0, s * s / (2 * scale), entropy)


def _elu_difference(a: Tensor, da: Tensor, alpha: float, scale: float, rate: float) -> Tensor:
    up, down = split_difference(a, da)
    below, rise, fall = a.clamp(max=0.0), down.clamp(min=0.0), down.clamp(max=0.0)
    curved = torch.where(  # from the upper of the two points, so that no exp overflows
        down >= 0,
        -torch.exp(rate * (below + rise)) * torch.expm1(-rate * rise),
        torch.exp(rate * below) * torch.expm1(rate * fall),
    )
    return scale * (up + alpha * curved)


def _elu_activation(a: Tensor, alpha: float, scale: float, rate: float) -> Tensor:
    found: Tensor = aten.elu(a, alpha, scale, rate)
    return found


def _elu_tangent(a: Tensor, da: Tensor, alpha: float, scale: float, rate: float) -> Tensor:
    return scale * torch.where(a > 0, da, alpha * rate * torch.exp(rate * a.clamp(max=0.0)) * da)


def _elu_tangent_at(s: Tensor, alpha: float, scale: float, rate: float) -> Callable[[Tensor], Tensor]:
    return lambda da: aten.elu_backward(da, alpha, scale, rate, True, s)


def elu(alpha: float, scale: float = 1.0, rate: float = 1.0, kind: Kind = ELU) -> Potential:
    """sigma(a) = scale * (a if a > 0 else alpha * (exp(rate * a) - 1))."""
    constants: dict[str, Any] = dict(alpha=alpha, scale=scale, rate=rate)
    depth = scale * alpha
    half, tex_half = ("½", r"\tfrac12") if scale == 1 else (f"{1 / (2 * scale):g}·", f"{1 / (2 * scale):g}")
    times, tex_times = ("", "") if rate == 1 else (f"{1 / rate:g}·", f"{1 / rate:g}")
    return Potential(
        name=kind.name,
        energy=partial(_elu_energy, **constants),
        activation=partial(_elu_activation, **constants),
        difference=partial(_elu_difference, **constants),
        tangent=partial(_elu_tangent, **constants),
        tangent_at=partial(_elu_tangent_at, **constants),
        slope=scale * max(1.0, alpha * rate),
        lower=-alpha * scale,
        text=f"{half}‖max({{s}},0)‖² + {times}Σ[({depth:g}+{{s}})log(1+{{s}}/{depth:g}) − {{s}}] over {{s}}<0",
        tex=rf"{tex_half}\lVert \max({{s}},0)\rVert^2 + {tex_times}\textstyle\sum_{{{{{{s}}<0}}}}\left[({depth:g}+{{s}})\log(1+{{s}}/{depth:g}) - {{s}}\right]",
        options=constants,
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
