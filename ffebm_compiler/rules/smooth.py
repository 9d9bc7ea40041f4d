"""Smooth activations that are not monotone: they have no convex potential, and live inside the interaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ir import Kind, Operation, Options
from .forms import Form, Given
from .one_operand import coupled
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
    functions: tuple[Callable[..., Any], ...],
    module: type[nn.Module] | None = None,
    signature: tuple[str, ...] = ("input",),
    methods: tuple[str, ...] = (),
    options: Mapping[str, OptionType] = MappingProxyType({}),
) -> Rule:
    form = Form(partial(_activation, kind=kind, function=functions[0]), options)
    return Rule(
        kind.name,
        Role.SMOOTH,
        coupled(form),
        summary,
        modules=() if module is None else (module,),
        functions=functions,
        methods=methods,
        signature=signature,
        examples=() if module is None else ((module, (3, 5)),),
        forms={kind: (form,)},
    )


RULES: tuple[Rule, ...] = (
    _rule(
        GELU,
        "a Φ(a)",
        (F.gelu, aten.gelu.default, aten.gelu_.default),
        nn.GELU,
        signature=("input", "approximate"),
        options={"approximate": one_of("none", "tanh").by_default("none")},
    ),
    _rule(
        SILU,
        "a / (1 + exp(−a))",
        (F.silu, aten.silu.default, aten.silu_.default),
        nn.SiLU,
        signature=("input", "inplace"),
    ),
    _rule(
        MISH,
        "a tanh(log(1 + exp(a)))",
        (F.mish, aten.mish.default, aten.mish_.default),
        nn.Mish,
        signature=("input", "inplace"),
    ),
    _rule(
        HARDSWISH,
        "a clip(a/6 + 1/2, 0, 1)",
        (F.hardswish, aten.hardswish.default, aten.hardswish_.default),
        nn.Hardswish,
        signature=("input", "inplace"),
    ),
    _rule(SIN, "sin(a)", (torch.sin, aten.sin.default), methods=("sin",)),
    _rule(COS, "cos(a)", (torch.cos, aten.cos.default), methods=("cos",)),
)
