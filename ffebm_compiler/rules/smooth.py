"""Smooth activations that are not monotone: they have no convex potential, and live inside the interaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ir import Operation
from .remake import Kind, OperationRemakes, Options, Remake, one_of
from .rule import Call, Reading, Role, Rule

aten = torch.ops.aten


def _operation(name: str, function: Callable[..., Any], chosen: Options) -> Operation:
    return Operation(
        name=name,
        function=function,
        options=chosen,
        linear=False,
        text=f"{name}({{0}})",
        tex=rf"\mathrm{{{{{name}}}}}({{0}})",
    )


def _read(name: str, function: Callable[..., Any], *constants: tuple[str, Any]) -> Callable[[Call], Reading]:
    def read(call: Call) -> Reading:
        return Reading(
            operands=(call.as_operand(call.value()),),
            operation=_operation(name, function, {k: call.option(k, v) for k, v in constants}),
        )

    return read


SMOOTH_RULES: tuple[Rule, ...] = (
    Rule(
        "gelu",
        Role.SMOOTH,
        _read("gelu", F.gelu, ("approximate", "none")),
        "a Φ(a)",
        modules=(nn.GELU,),
        functions=(F.gelu, aten.gelu.default, aten.gelu_.default),
        signature=("input", "approximate"),
        examples=((nn.GELU, (3, 5)),),
    ),
    Rule(
        "silu",
        Role.SMOOTH,
        _read("silu", F.silu),
        "a / (1 + exp(−a))",
        modules=(nn.SiLU,),
        functions=(F.silu, aten.silu.default, aten.silu_.default),
        signature=("input", "inplace"),
        examples=((nn.SiLU, (3, 5)),),
    ),
    Rule(
        "mish",
        Role.SMOOTH,
        _read("mish", F.mish),
        "a tanh(log(1 + exp(a)))",
        modules=(nn.Mish,),
        functions=(F.mish, aten.mish.default, aten.mish_.default),
        signature=("input", "inplace"),
        examples=((nn.Mish, (3, 5)),),
    ),
    Rule(
        "hardswish",
        Role.SMOOTH,
        _read("hardswish", F.hardswish),
        "a clip(a/6 + 1/2, 0, 1)",
        modules=(nn.Hardswish,),
        functions=(F.hardswish, aten.hardswish.default, aten.hardswish_.default),
        signature=("input", "inplace"),
        examples=((nn.Hardswish, (3, 5)),),
    ),
    Rule(
        "sin", Role.SMOOTH, _read("sin", torch.sin), "sin(a)", functions=(torch.sin, aten.sin.default), methods=("sin",)
    ),
    Rule(
        "cos", Role.SMOOTH, _read("cos", torch.cos), "cos(a)", functions=(torch.cos, aten.cos.default), methods=("cos",)
    ),
)


def _remake(name: str, function: Callable[..., Any], **options: Kind) -> tuple[Remake[Operation], ...]:
    return (Remake(lambda chosen, given: _operation(name, function, chosen), options),)


SMOOTH_OPERATIONS: OperationRemakes = {
    "gelu": _remake("gelu", F.gelu, approximate=one_of("none", "tanh")),
    "silu": _remake("silu", F.silu),
    "mish": _remake("mish", F.mish),
    "hardswish": _remake("hardswish", F.hardswish),
    "sin": _remake("sin", torch.sin),
    "cos": _remake("cos", torch.cos),
}
