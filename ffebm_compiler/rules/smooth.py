"""Smooth activations that are not monotone: they have no convex potential, and live inside the interaction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ir import Kind, Operation, Options
from .forms import Form, Given
from .one_operand import coupling
from .option_types import OptionType, one_of
from .rule import Role, Rule

aten = torch.ops.aten

GELU, SILU, MISH, HARDSWISH = (Kind(name, __name__) for name in ("gelu", "silu", "mish", "hardswish"))
SIN, COS = Kind("sin", __name__), Kind("cos", __name__)


def _activation(chosen: Options, given: Given, kind: Kind, function: Callable[..., Any]) -> Operation:
    return Operation(
        name=kind.name,
        function=function,
        options=chosen,
        linear=False,
        text=f"{kind.name}({{0}})",
        tex=rf"\mathrm{{{{{kind.name}}}}}({{0}})",
        kind=kind,
    )


def _rule(
    kind: Kind,
    summary: str,
    *functions: Callable[..., Any],
    layer: type[nn.Module] | None = None,
    methods: tuple[str, ...] = (),
    **options: OptionType,
) -> Rule:
    form = Form(partial(_activation, kind=kind, function=functions[0]), options)
    example = None if layer is None else (layer, (3, 5))
    return coupling(kind, form, summary, functions, methods, example, role=Role.SMOOTH, ignored=("inplace",))


_APPROXIMATION = one_of("none", "tanh").by_default("none")

RULES: tuple[Rule, ...] = (
    _rule(GELU, "a Φ(a)", F.gelu, aten.gelu.default, aten.gelu_.default, layer=nn.GELU, approximate=_APPROXIMATION),
    _rule(SILU, "a / (1 + exp(−a))", F.silu, aten.silu.default, aten.silu_.default, layer=nn.SiLU),
    _rule(MISH, "a tanh(log(1 + exp(a)))", F.mish, aten.mish.default, aten.mish_.default, layer=nn.Mish),
    _rule(
        HARDSWISH,
        "a clip(a/6 + 1/2, 0, 1)",
        *(F.hardswish, aten.hardswish.default, aten.hardswish_.default),
        layer=nn.Hardswish,
    ),
    _rule(SIN, "sin(a)", torch.sin, aten.sin.default, methods=("sin",)),
    _rule(COS, "cos(a)", torch.cos, aten.cos.default, methods=("cos",)),
)
