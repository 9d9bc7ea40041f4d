"""Weighted couplings: linear maps, convolutions and transposed convolutions, in one, two and three dimensions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..ir import Operation, Weight
from ..ir.functions import times
from .remake import COUNT, COUNTS, FLAG, SIZES, Given, Kind, OperationRemakes, Options, Remake, either, one_of
from .rule import Call, Reading, Refusal, Role, Rule, nodes_of, options

aten = torch.ops.aten


def _weighted(name: str, function: Callable[..., Any], chosen: Options, given: Given) -> Operation:
    star = r"\star" if "conv" in name else r"\,"
    plus = r" + b_{{{layer}}}" if given[2] else ""
    return Operation(
        name=name,
        function=function,
        options=chosen,
        weighted=True,
        text="{layer}({0})",
        tex=r"W_{{{layer}}}" + star + " {0}" + plus,
    )


def _read_weighted(call: Call, name: str, function: Callable[..., Any], constants: dict[str, Any]) -> Reading:
    weight, bias = call.weight("weight"), call.weight("bias")
    return Reading(
        operands=(call.as_operand(call.value()), weight, bias),
        operation=_weighted(name, function, options(**constants), (True, True, bias is not None)),
        given=nodes_of(weight, bias),
    )


def _linear(call: Call) -> Reading | Refusal:
    if call.module is None and call.weight("weight") is None:
        return Refusal("its weight is not a tensor")
    return _read_weighted(call, "linear", F.linear, {})


def _matrix(call: Call) -> tuple[Weight, bool] | None:
    """The weight that multiplies from the right, and whether it is transposed (``x @ w``, ``x @ w.t()``)."""
    value = call.arguments["other"]
    transposed = isinstance(value, fx.Node) and (
        (value.op == "call_method" and value.target == "t")
        or (value.target is getattr and value.args[1] in ("T", "mT"))
        or value.target in (torch.t, aten.t.default)
    )
    weight = call.as_operand(value.args[0] if transposed else value)
    return (weight, transposed) if isinstance(weight, Weight) else None


def _matmul(call: Call) -> Reading | Refusal:
    matrix = _matrix(call)
    value, bias = call.as_operand(call.value()), call.weight("bias")
    if matrix is None or isinstance(value, Weight):
        return Refusal("a product of two computed values is not bilinear in state and weight")
    if call.option("alpha", 1) != 1 or call.option("beta", 1) != 1:
        return Refusal("alpha and beta other than 1 have no rule; scale outside of the product")
    weight, transposed = matrix
    return Reading(
        operands=(value, weight, bias),
        operation=_product(dict(transposed=transposed), (True, True, bias is not None)),
        given=nodes_of(bias),
    )


def _product(chosen: Options, given: Given) -> Operation:
    plus = " + {2}" if given[2] else ""
    return Operation(
        name="matmul",
        function=times,
        options=chosen,
        weighted=True,
        text="{0} @ {1}" + plus,
        tex=r"{0}\,{1}" + plus,
    )


def _convolution(name: str, function: Callable[..., Any], transposed: bool) -> Callable[[Call], Reading | Refusal]:
    def read(call: Call) -> Reading | Refusal:
        mode = getattr(call.module, "padding_mode", "zeros")
        if mode != "zeros":
            return Refusal(f"padding_mode={mode!r} has no rule; pad with zeros or put the padding in its own layer")
        if call.arguments.get("output_size") is not None:
            return Refusal("output_size= is computed at run time")
        constants = {
            "stride": call.option("stride", 1),
            "padding": call.option("padding", 0),
            "dilation": call.option("dilation", 1),
            "groups": call.option("groups", 1),
        }
        if transposed:
            constants["output_padding"] = call.option("output_padding", 0)
        return _read_weighted(call, name, function, constants)

    return read


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def _conv_rule(
    d: int,
    module: type[nn.Module],
    functions: tuple[Callable[..., Any], ...],
    transposed: bool,
    example: tuple[Callable[[], nn.Module], tuple[int, ...]],
) -> Rule:
    name = f"conv_transpose{d}d" if transposed else f"conv{d}d"
    return Rule(
        name,
        Role.COUPLING,
        _convolution(name, functions[0], transposed),
        "transposed convolution" if transposed else "convolution: stride, padding, dilation, groups",
        modules=(module,),
        functions=functions,
        signature=_TRANSPOSED if transposed else _CONVOLUTION,
        examples=(example,),
    )


WEIGHTED_RULES: tuple[Rule, ...] = (
    Rule(
        "linear",
        Role.COUPLING,
        _linear,
        "a matrix, with or without bias",
        modules=(nn.Linear,),
        functions=(F.linear, aten.linear.default),
        signature=("input", "weight", "bias"),
        examples=((lambda: nn.Linear(5, 4), (3, 5)),),
    ),
    Rule(
        "matmul",
        Role.COUPLING,
        _matmul,
        "a product with a weight of the model",
        functions=(torch.matmul, torch.mm, operator.matmul, aten.matmul.default, aten.mm.default),
        methods=("matmul", "mm"),
        signature=("input", "other"),
    ),
    Rule(
        "addmm",
        Role.COUPLING,
        _matmul,
        "bias and product with a weight of the model",
        functions=(torch.addmm, aten.addmm.default),
        signature=("bias", "input", "other"),
    ),
    _conv_rule(
        1,
        nn.Conv1d,
        (F.conv1d, torch.conv1d, aten.conv1d.default, aten.conv1d.padding),
        False,
        (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    ),
    _conv_rule(
        2,
        nn.Conv2d,
        (F.conv2d, torch.conv2d, aten.conv2d.default, aten.conv2d.padding),
        False,
        (lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2), (2, 3, 7, 6)),
    ),
    _conv_rule(
        3,
        nn.Conv3d,
        (F.conv3d, torch.conv3d, aten.conv3d.default, aten.conv3d.padding),
        False,
        (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 3)),
    ),
    _conv_rule(
        1,
        nn.ConvTranspose1d,
        (F.conv_transpose1d, torch.conv_transpose1d, aten.conv_transpose1d.default),
        True,
        (lambda: nn.ConvTranspose1d(4, 2, 3, stride=2), (2, 4, 5)),
    ),
    _conv_rule(
        2,
        nn.ConvTranspose2d,
        (F.conv_transpose2d, torch.conv_transpose2d, aten.conv_transpose2d.input),
        True,
        (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (2, 3, 4, 4)),
    ),
    _conv_rule(
        3,
        nn.ConvTranspose3d,
        (F.conv_transpose3d, torch.conv_transpose3d, aten.conv_transpose3d.input),
        True,
        (lambda: nn.ConvTranspose3d(2, 3, 2), (2, 2, 3, 3, 3)),
    ),
)

_WINDOW = {"stride": COUNTS, "padding": either(SIZES, one_of("same", "valid")), "dilation": COUNTS, "groups": COUNT}
_TRANSPOSED_WINDOW = {**_WINDOW, "output_padding": SIZES}


def _remake(name: str, options: Mapping[str, Kind]) -> tuple[Remake[Operation], ...]:
    return (Remake(partial(_weighted, name, getattr(F, name)), options, (3, 3)),)


WEIGHTED_OPERATIONS: OperationRemakes = {
    "linear": _remake("linear", {}),
    "matmul": (Remake(_product, {"transposed": FLAG}, (3, 3)),),
    **{f"conv{d}d": _remake(f"conv{d}d", _WINDOW) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _remake(f"conv_transpose{d}d", _TRANSPOSED_WINDOW) for d in (1, 2, 3)},
}
