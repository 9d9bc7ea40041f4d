"""Activations of exponentials: ``sigma = (grad G)^-1``, elementwise except softmax.

| activation     | G(s)                                    | domain     |
| Sigmoid        | s log s + (1-s) log(1-s)                | [0, 1]     |
| Tanh           | [(1+s) log(1+s) + (1-s) log(1-s)]/2     | [-1, 1]    |
| Softplus(beta) | s^2/2 + Li2(exp(-beta s))/beta^2        | s > 0      |
| ELU(alpha)     | s^2/2, and (alpha+s) log(1+s/alpha) - s | s > -alpha |
| Softmax        | sum s log s                             | simplex    |

The differences ``sigma(a + da) - sigma(a)`` are addition theorems and ``expm1``, so that an increment far below the rounding of
``a`` keeps its relative precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import Potential
from .activation import chosen, fixed
from .piecewise import split_difference
from .remake import NUMBER, OWN_DIMENSION, POSITIVE, Kind, Options, PotentialRemakes, exactly, of
from .rule import Call, Refusal, Role, Rule

aten = torch.ops.aten


def _xlogx(s: Tensor) -> Tensor:
    product: Tensor = torch.special.xlogy(s, s)
    return product


def _elu_energy(s: Tensor, alpha: float, scale: float, rate: float) -> Tensor:
    """For s = scale * alpha * (exp(rate a) - 1): the integral of log(1 + s / (scale alpha)) / rate."""
    depth = scale * alpha
    below = s.clamp(-depth, 0.0)
    entropy = (torch.special.xlogy(depth + below, 1 + below / depth) - below) / rate
    return torch.where(s > 0, s * s / (2 * scale), entropy)


def _elu_difference(a: Tensor, da: Tensor, alpha: float, scale: float, rate: float) -> Tensor:
    up, down = split_difference(a, da)
    return scale * (up + alpha * torch.exp(rate * a.clamp(max=0.0)) * torch.expm1(rate * down))


def _elu_activation(a: Tensor, alpha: float, scale: float, rate: float) -> Tensor:
    found: Tensor = aten.elu(a, alpha, scale, rate)
    return found


def _elu_tangent(a: Tensor, da: Tensor, alpha: float, scale: float, rate: float) -> Tensor:
    return scale * torch.where(a > 0, da, alpha * rate * torch.exp(rate * a.clamp(max=0.0)) * da)


def _elu_tangent_at(s: Tensor, alpha: float, scale: float, rate: float) -> Callable[[Tensor], Tensor]:
    return lambda da: aten.elu_backward(da, alpha, scale, rate, True, s)


def elu(alpha: float, scale: float = 1.0, rate: float = 1.0, name: str = "elu") -> Potential:
    """sigma(a) = scale * (a if a > 0 else alpha * (exp(rate * a) - 1))."""
    constants: dict[str, Any] = dict(alpha=alpha, scale=scale, rate=rate)
    depth = scale * alpha
    half, tex_half = ("½", r"\tfrac12") if scale == 1 else (f"{1 / (2 * scale):g}·", f"{1 / (2 * scale):g}")
    times, tex_times = ("", "") if rate == 1 else (f"{1 / rate:g}·", f"{1 / rate:g}")
    return Potential(
        name=name,
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
    )


def _binary_entropy(s: Tensor) -> Tensor:
    return _xlogx(s) + _xlogx(1 - s)


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
    text="Σ[{s} log {s} + (1−{s}) log(1−{s})]",
    tex=r"\textstyle\sum\left[{s}\log {s} + (1-{s})\log(1-{s})\right]",
)


def _tanh_energy(s: Tensor) -> Tensor:
    return (_xlogx(1 + s) + _xlogx(1 - s)) / 2


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
    text="½Σ[(1+{s}) log(1+{s}) + (1−{s}) log(1−{s})]",
    tex=r"\tfrac12\textstyle\sum\left[(1+{s})\log(1+{s}) + (1-{s})\log(1-{s})\right]",
)


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
        name="softplus",
        energy=partial(_softplus_energy, beta=beta),
        activation=partial(F.softplus, beta=beta, threshold=threshold),
        difference=partial(_softplus_difference, beta=beta),
        tangent=partial(_softplus_tangent, beta=beta, threshold=threshold),
        tangent_at=partial(_softplus_tangent_at, beta=beta, threshold=threshold),
        lower=0.0,
        text=f"½‖{{s}}‖² + Σ Li₂(exp(−{beta:g}{{s}}))/{beta * beta:g}",
        tex=rf"\tfrac12\lVert {{s}}\rVert^2 + \textstyle\sum \mathrm{{{{Li}}}}_2(e^{{{{-{beta:g}{{s}}}}}})/{beta * beta:g}",
        options=dict(beta=beta, threshold=threshold),
    )


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
        name="softmax",
        energy=_xlogx,
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
    )


# --- the rules ------------------------------------------------------------


def _elu(call: Call) -> Potential | Refusal:
    alpha, scale, rate = call.option("alpha", 1.0), call.option("scale", 1.0), call.option("input_scale", 1.0)
    if not min(alpha, scale, rate) > 0:
        return Refusal(f"alpha={alpha} is not increasing, so it has no convex potential")
    return elu(float(alpha), float(scale), float(rate))


def _celu(call: Call) -> Potential | Refusal:
    alpha = call.option("alpha", 1.0)
    if not alpha > 0:
        return Refusal(f"alpha={alpha} is not increasing, so it has no convex potential")
    return elu(float(alpha), rate=1 / float(alpha), name="celu")


CURVED = 15
"""Up to here a softplus is still curved."""


def _softplus(call: Call) -> Potential | Refusal:
    beta, threshold = call.option("beta", 1.0), call.option("threshold", 20.0)
    if not beta > 0:
        return Refusal(f"beta={beta} is not positive")
    if threshold < CURVED:
        return Refusal(
            f"threshold={threshold} makes it a straight line where it is still curved, so it is not the softplus of the energy"
        )
    return softplus(float(beta), float(threshold))


def _softmax(call: Call) -> Potential | Refusal:
    dim = call.option("dim", None)
    if dim is None:
        return Refusal("its dimension is implicit; give dim=")
    if call.arguments.get("dtype") is not None:
        return Refusal("it changes the type of its input")
    return Refusal("it normalises over the batch") if dim == 0 else softmax(int(dim))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, as in PyTorch
SELU = elu(SELU_ALPHA, SELU_SCALE, name="selu")


EXPONENTIAL_RULES: tuple[Rule, ...] = (
    Rule(
        "sigmoid",
        Role.POTENTIAL,
        fixed(SIGMOID),
        "1 / (1 + exp(−a))",
        modules=(nn.Sigmoid,),
        functions=(
            torch.sigmoid,
            F.sigmoid,
            torch.special.expit,
            torch.sigmoid_,
            aten.sigmoid.default,
            aten.sigmoid_.default,
        ),
        methods=("sigmoid", "sigmoid_"),
        examples=((nn.Sigmoid, (3, 5)),),
    ),
    Rule(
        "tanh",
        Role.POTENTIAL,
        fixed(TANH),
        "tanh(a)",
        modules=(nn.Tanh,),
        functions=(torch.tanh, F.tanh, torch.tanh_, aten.tanh.default, aten.tanh_.default),
        methods=("tanh", "tanh_"),
        examples=((nn.Tanh, (3, 5)),),
    ),
    Rule(
        "softplus",
        Role.POTENTIAL,
        chosen(_softplus),
        "log(1 + exp(beta a)) / beta",
        modules=(nn.Softplus,),
        functions=(F.softplus, aten.softplus.default),
        signature=("input", "beta", "threshold"),
        examples=((lambda: nn.Softplus(2.0), (3, 5)),),
    ),
    Rule(
        "elu",
        Role.POTENTIAL,
        chosen(_elu),
        "a, or alpha (exp(a) − 1) below 0",
        modules=(nn.ELU,),
        functions=(F.elu, F.elu_),
        signature=("input", "alpha", "inplace"),
        examples=((lambda: nn.ELU(0.7), (3, 5)),),
    ),
    Rule(
        "elu_scaled",
        Role.POTENTIAL,
        chosen(_elu),
        "scale · a, or scale · alpha (exp(rate · a) − 1) below 0",
        functions=(aten.elu.default, aten.elu_.default),
        signature=("input", "alpha", "scale", "input_scale"),
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
    ),
    Rule(
        "selu",
        Role.POTENTIAL,
        fixed(SELU),
        "scaled ELU",
        modules=(nn.SELU,),
        functions=(F.selu, torch.selu, aten.selu.default, aten.selu_.default),
        signature=("input", "inplace"),
        examples=((nn.SELU, (3, 5)),),
    ),
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
    ),
)


def _elu_remade(o: Options) -> Potential:
    return elu(o["alpha"], o["scale"], o["rate"])


_ELU = dict(alpha=POSITIVE, scale=POSITIVE, rate=POSITIVE)
_THRESHOLD = Kind(f"a number from {CURVED}", lambda value: NUMBER.holds(value) and value >= CURVED)

EXPONENTIAL_POTENTIALS: PotentialRemakes = {
    "sigmoid": exactly(SIGMOID),
    "tanh": exactly(TANH),
    "selu": exactly(SELU),
    "elu": of(_elu_remade, **_ELU),
    "celu": of(lambda o: replace(_elu_remade(o), name="celu"), **_ELU),
    "softplus": of(lambda o: softplus(o["beta"], o["threshold"]), beta=POSITIVE, threshold=_THRESHOLD),
    "softmax": of(lambda o: softmax(o["dim"]), dim=OWN_DIMENSION),
}
