"""Piecewise linear activations: ``sigma = (grad G)^-1``, elementwise.

| activation       | G(s)                            | domain   |
| ReLU             | s^2/2                           | s >= 0   |
| clamp(a, lo, hi) | s^2/2                           | [lo, hi] |
| LeakyReLU        | s^2/2, and s^2/(2 slope) below 0 |          |
| Hardsigmoid      | 3 s^2 - 3 s                     | [0, 1]   |

Exactly on a bound a slope is a convention, and torch has two. ``clamp`` (``clip``, ``clamp_min``, ``clamp_max``)
has the slope of the inside there: *closed*. ``relu``, ``relu6``, ``hardtanh`` and ``hardsigmoid`` have none:
*open*. The state of an open clip tells its slope; that of a closed one is the same on a bound and beyond. Each
potential follows its own spelling, and its activation is the function of torch that has this convention under
automatic differentiation.

The differences ``sigma(a + da) - sigma(a)`` clip the increment instead of subtracting two states, so that an
increment far below the rounding of ``a`` keeps its relative precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import IDENTITY, Kind, Potential
from ..ir.potential import half_square
from .forms import parametric
from .one_operand import activation, chosen
from .option_types import NUMBER, POSITIVE, REAL
from .rule import Call, Refusal, Role, Rule

INFINITY = float("inf")
aten = torch.ops.aten

CLAMP, HARDTANH, LEAKY_RELU = (Kind(name, __name__) for name in ("clamp", "hardtanh", "leaky_relu"))


def _clip_difference(a: Tensor, da: Tensor, lower: float, upper: float) -> Tensor:
    """clip(a + da) - clip(a): the increment beyond the clipped point, clipped by what is left to the bounds."""
    c = a.clamp(lower, upper)
    return (da + (a - c)).clamp(lower - c, upper - c)


def _prepared_clip(a: Tensor, lower: float, upper: float) -> Callable[[Tensor], Tensor]:
    """The same for many increments of one ``a``: two additions' worth of work each."""
    c = a.clamp(lower, upper)
    excess, low, high = a - c, lower - c, None if upper == INFINITY else upper - c
    if high is None:
        return lambda da: torch.maximum(da + excess, low)
    return lambda da: torch.clamp(da + excess, low, high)


@dataclass(frozen=True)
class _Clip:
    """``clip(scale * a + shift, lower, upper)``; ``closed``: whether the slope on the bounds is that of the inside."""

    lower: float
    upper: float
    scale: float
    shift: float
    closed: bool

    def energy(self, s: Tensor) -> Tensor:
        return (s - self.shift) ** 2 / (2 * self.scale)

    def affine(self, a: Tensor) -> Tensor:
        return a if (self.scale, self.shift) == (1, 0) else self.scale * a + self.shift

    def activation(self, a: Tensor) -> Tensor:
        u = self.affine(a)
        s: Tensor = u.clamp(self.lower, self.upper) if self.closed else aten.hardtanh(u, self.lower, self.upper)
        return s

    def overwrite(self, a: Tensor) -> Tensor:
        return a.clamp_(self.lower, self.upper)

    def difference(self, a: Tensor, da: Tensor) -> Tensor:
        return _clip_difference(self.affine(a), self.scale * da, self.lower, self.upper)

    def prepared_difference(self, a: Tensor) -> Callable[[Tensor], Tensor]:
        clipped = _prepared_clip(self.affine(a), self.lower, self.upper)
        return clipped if self.scale == 1 else lambda da: clipped(self.scale * da)

    def tangent(self, a: Tensor, da: Tensor) -> Tensor:
        u, lower, upper = self.affine(a), self.lower, self.upper
        inside = (u >= lower) & (u <= upper) if self.closed else (u > lower) & (u < upper)
        return torch.where(inside, self.scale * da, 0.0)

    def inside(self, a: Tensor, s: Tensor) -> Tensor:
        """Where nothing was clipped."""
        return s == self.affine(a)


def _tangent_inside(s: Tensor, lower: float, upper: float, scale: float) -> Callable[[Tensor], Tensor]:
    def inside(da: Tensor) -> Tensor:
        return aten.hardtanh_backward(da, s, lower, upper)  # type: ignore[no-any-return]

    return inside if scale == 1 else lambda da: inside(da).mul_(scale)


def clamp(
    lower: float, upper: float, scale: float = 1.0, shift: float = 0.0, kind: Kind = CLAMP, closed: bool = False
) -> Potential:
    """sigma(a) = clip(scale * a + shift, lower, upper); G = (s - shift)^2 / (2 scale).

    Args:
        closed: whether the slope on the bounds is that of the inside.
    """
    clip = _Clip(lower, upper, scale, shift, closed)
    centred = "{s}" if shift == 0 else f"{{s}} − {shift:g}"
    factor, tex_factor = ("½", r"\tfrac12") if scale == 1 else (f"{1 / (2 * scale):g}·", f"{1 / (2 * scale):g}")
    return Potential(
        name=kind.name,
        energy=clip.energy,
        activation=clip.activation,
        difference=clip.difference,
        prepared_difference=clip.prepared_difference,
        tangent=clip.tangent,
        tangent_at=None if closed else partial(_tangent_inside, lower=lower, upper=upper, scale=scale),
        inside=clip.inside if closed else None,
        overwrite=clip.overwrite if (scale, shift) == (1, 0) else None,
        slope=scale,
        lower=lower,
        upper=upper,
        text=f"{factor}‖{centred}‖²",
        tex=rf"{tex_factor}\lVert {centred.replace('−', '-')}\rVert^2",
        options=dict(lower=lower, upper=upper, scale=scale, shift=shift),
        kind=kind,
    )


def _relu_tangent(a: Tensor, da: Tensor) -> Tensor:
    return torch.where(a > 0, da, 0.0)


def _relu_tangent_at(s: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda da: aten.threshold_backward(da, s, 0)


RELU = Potential(
    name="relu",
    energy=half_square,
    activation=torch.relu,
    difference=partial(_clip_difference, lower=0.0, upper=INFINITY),
    prepared_difference=partial(_prepared_clip, lower=0.0, upper=INFINITY),
    tangent=_relu_tangent,
    tangent_at=_relu_tangent_at,
    overwrite=torch.relu_,
    lower=0.0,
    options=dict(lower=0.0, upper=INFINITY, scale=1.0, shift=0.0),
    kind=Kind("relu", __name__),
)
RELU6 = clamp(0.0, 6.0, kind=Kind("relu6", __name__))

SIXTH = float(torch.tensor(1 / 6, dtype=torch.float32))
"""The slope of torch's hardsigmoid, in any type."""


def _hardsigmoid_tangent(a: Tensor, da: Tensor) -> Tensor:
    return torch.where((a > -3) & (a < 3), SIXTH * da, 0.0)


HARDSIGMOID = replace(
    clamp(0.0, 1.0, scale=1 / 6, shift=0.5, kind=Kind("hardsigmoid", __name__)),
    activation=F.hardsigmoid,
    overwrite=None,
    tangent=_hardsigmoid_tangent,
    tangent_at=partial(_tangent_inside, lower=0.0, upper=1.0, scale=SIXTH),
)


CLIPS = (IDENTITY.kind, RELU.kind, RELU6.kind, CLAMP, HARDTANH, HARDSIGMOID.kind)
"""The kinds that clip an affine map of ``a``: what diodes make, where the map is the identity."""


def split_difference(a: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
    """The increments of max(a, 0) and of min(a, 0)."""
    return _clip_difference(a, da, 0.0, INFINITY), _clip_difference(a, da, -INFINITY, 0.0)


@dataclass(frozen=True)
class _Leaky:
    """``a``, or ``slope * a`` below 0."""

    slope: float

    def energy(self, s: Tensor) -> Tensor:
        return torch.where(s > 0, s * s / 2, s * s / (2 * self.slope))

    def activation(self, a: Tensor) -> Tensor:
        return F.leaky_relu(a, self.slope)

    def difference(self, a: Tensor, da: Tensor) -> Tensor:
        up, down = split_difference(a, da)
        return up + self.slope * down

    def tangent(self, a: Tensor, da: Tensor) -> Tensor:
        return torch.where(a > 0, da, self.slope * da)

    def tangent_at(self, s: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda da: aten.leaky_relu_backward(da, s, self.slope, True)


def leaky_relu(slope: float) -> Potential:
    leaky = _Leaky(slope)
    return Potential(
        name=LEAKY_RELU.name,
        energy=leaky.energy,
        activation=leaky.activation,
        difference=leaky.difference,
        tangent=leaky.tangent,
        tangent_at=leaky.tangent_at,
        slope=max(1.0, slope),
        text=f"½‖max({{s}},0)‖² + {1 / (2 * slope):g}·‖min({{s}},0)‖²",
        tex=rf"\tfrac12\lVert \max({{s}},0)\rVert^2 + {1 / (2 * slope):g}\lVert \min({{s}},0)\rVert^2",
        options=dict(slope=slope),
        kind=LEAKY_RELU,
    )


# --- the rules ------------------------------------------------------------


def _clamp(call: Call) -> Potential | Refusal:
    lower, upper = call.option("min", None), call.option("max", None)
    if not all(bound is None or isinstance(bound, (int, float)) for bound in (lower, upper)):
        return Refusal("its bounds are tensors; an energy needs them constant")
    low = -INFINITY if lower is None else float(lower)
    high = INFINITY if upper is None else float(upper)
    if low > high:
        return Refusal(f"its bounds are crossed: min={low:g}, max={high:g}")
    return clamp(low, high, closed=True)


def _hardtanh(call: Call) -> Potential:
    low, high = call.option("min_val", -1.0), call.option("max_val", 1.0)
    return clamp(float(low), float(high), kind=HARDTANH)


def _leaky(call: Call) -> Potential | Refusal:
    slope = call.option("negative_slope", 0.01)
    if not slope > 0:
        return Refusal(f"a negative slope of {slope} is not increasing, so it has no convex potential")
    return leaky_relu(float(slope))


_CLIP = dict(lower=REAL, upper=REAL, scale=POSITIVE, shift=NUMBER)
_CLAMP = {CLAMP: parametric(partial(clamp, closed=True), **_CLIP)}

RULES: tuple[Rule, ...] = (
    activation(
        RELU,
        "max(a, 0)",
        nn.ReLU,
        (torch.relu, F.relu, torch.relu_, F.relu_, aten.relu.default, aten.relu_.default),
        ("relu", "relu_"),
    ),
    activation(RELU6, "clip(a, 0, 6)", nn.ReLU6, (F.relu6, aten.relu6.default, aten.relu6_.default)),
    Rule(
        "leaky_relu",
        Role.POTENTIAL,
        chosen(_leaky),
        "a, or slope · a below 0",
        modules=(nn.LeakyReLU,),
        functions=(F.leaky_relu, F.leaky_relu_, aten.leaky_relu.default, aten.leaky_relu_.default),
        signature=("input", "negative_slope", "inplace"),
        examples=((lambda: nn.LeakyReLU(0.1), (3, 5)),),
        forms={LEAKY_RELU: parametric(leaky_relu, slope=POSITIVE)},
        potentials=(leaky_relu(2.5), leaky_relu(3.0)),
    ),
    Rule(
        "hardtanh",
        Role.POTENTIAL,
        chosen(_hardtanh),
        "clip(a, min_val, max_val)",
        modules=(nn.Hardtanh,),
        functions=(F.hardtanh, F.hardtanh_, aten.hardtanh.default, aten.hardtanh_.default),
        signature=("input", "min_val", "max_val", "inplace"),
        examples=((lambda: nn.Hardtanh(-0.5, 1.5), (3, 5)),),
        forms={HARDTANH: parametric(partial(clamp, kind=HARDTANH), **_CLIP)},
    ),
    Rule(
        "clamp",
        Role.POTENTIAL,
        chosen(_clamp),
        "clip(a, min, max)",
        functions=(
            torch.clamp,
            torch.clip,
            torch.clamp_,
            aten.clamp.default,
            aten.clamp_.default,
            aten.clip.default,
            aten.clip_.default,
            torch.clamp_min,
            aten.clamp_min.default,
        ),
        methods=("clamp", "clip", "clamp_", "clip_", "clamp_min", "clamp_min_"),
        signature=("input", "min", "max"),
        forms=_CLAMP,
        potentials=(
            clamp(-0.5, 1.5, closed=True),
            clamp(-1.0, INFINITY),
            clamp(-1.0, 2.0, scale=0.3, shift=0.2),
            clamp(-0.5, 1.0, scale=0.3, shift=0.2, closed=True),
        ),
    ),
    Rule(
        "clamp_max",
        Role.POTENTIAL,
        chosen(_clamp),
        "min(a, max)",
        functions=(torch.clamp_max, aten.clamp_max.default),
        methods=("clamp_max", "clamp_max_"),
        signature=("input", "max"),
        forms=_CLAMP,
    ),
    activation(
        HARDSIGMOID,
        "clip(a/6 + 1/2, 0, 1)",
        nn.Hardsigmoid,
        (F.hardsigmoid, aten.hardsigmoid.default, aten.hardsigmoid_.default),
    ),
)
