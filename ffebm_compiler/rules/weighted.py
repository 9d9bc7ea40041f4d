"""Weighted couplings: linear maps, convolutions and transposed convolutions, in one, two and three dimensions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..ir import Kind, Operation, Options, Weight
from ..ir.functions import times
from .forms import Form, Given
from .option_types import COUNT, COUNTS, FLAG, SIZES, either, one_of
from .rule import Call, Reading, Refusal, Role, Rule, nodes_of

aten = torch.ops.aten

LINEAR, MATMUL = Kind("linear", __name__), Kind("matmul", __name__)
CONVOLUTIONS = {d: Kind(f"conv{d}d", __name__) for d in (1, 2, 3)}
TRANSPOSED_CONVOLUTIONS = {d: Kind(f"conv_transpose{d}d", __name__) for d in (1, 2, 3)}
"""By the number of dimensions."""

_WINDOW = {
    "stride": COUNTS.by_default(1),
    "padding": either(SIZES, one_of("same", "valid")).by_default(0),
    "dilation": COUNTS.by_default(1),
    "groups": COUNT.by_default(1),
}
_TRANSPOSED_WINDOW = {**_WINDOW, "output_padding": SIZES.by_default(0)}


def _weighted(chosen: Options, given: Given, kind: Kind, function: Callable[..., Any], product: str) -> Operation:
    plus = r" + b_{{{layer}}}" if given[2] else ""
    return Operation(
        name=kind.name,
        function=function,
        options=chosen,
        weighted=True,
        text="{layer}({0})",
        tex=r"W_{{{layer}}}" + product + " {0}" + plus,
        kind=kind,
    )


def _read_weighted(call: Call, form: Form[Operation]) -> Reading:
    weight, bias = call.weight("weight"), call.weight("bias")
    return Reading(
        operands=(call.operand(), weight, bias),
        operation=form(call.options(form.options), (True, True, bias is not None)),
        given=nodes_of(weight, bias),
    )


_LINEAR = Form(partial(_weighted, kind=LINEAR, function=F.linear, product=r"\,"), {}, (3, 3))


def _linear(call: Call) -> Reading | Refusal:
    if call.module is None and call.weight("weight") is None:
        return Refusal("its weight is not a tensor")
    return _read_weighted(call, _LINEAR)


def _times(chosen: Options, given: Given) -> Operation:
    plus = " + {2}" if given[2] else ""
    return Operation(
        name=MATMUL.name,
        function=times,
        options=chosen,
        weighted=True,
        text="{0} @ {1}" + plus,
        tex=r"{0}\,{1}" + plus,
        kind=MATMUL,
    )


_PRODUCT = Form(_times, {"transposed": FLAG}, (3, 3))


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
    value, bias = call.operand(), call.weight("bias")
    if matrix is None or isinstance(value, Weight):
        return Refusal("a product of two computed values is not bilinear in state and weight")
    if call.option("alpha", 1) != 1 or call.option("beta", 1) != 1:
        return Refusal("alpha and beta other than 1 have no rule; scale outside of the product")
    weight, transposed = matrix
    return Reading(
        operands=(value, weight, bias),
        operation=_PRODUCT(dict(transposed=transposed), (True, True, bias is not None)),
        given=nodes_of(bias),
    )


def _convolution(call: Call, form: Form[Operation]) -> Reading | Refusal:
    mode = getattr(call.module, "padding_mode", "zeros")
    if mode != "zeros":
        return Refusal(f"padding_mode={mode!r} has no rule; pad with zeros or put the padding in its own layer")
    if call.arguments.get("output_size") is not None:
        return Refusal("output_size= is computed at run time")
    return _read_weighted(call, form)


def _rule(
    kind: Kind,
    module: type[nn.Module],
    exported: tuple[Callable[..., Any], ...],
    example: Callable[[], nn.Module],
    shape: tuple[int, ...],
) -> Rule:
    """Of a convolution; ``exported``: what torch.export writes."""
    function, transposed = getattr(F, kind.name), kind in TRANSPOSED_CONVOLUTIONS.values()
    make = partial(_weighted, kind=kind, function=function, product=r"\star")
    form = Form(make, _TRANSPOSED_WINDOW if transposed else _WINDOW, (3, 3))
    return Rule(
        kind.name,
        Role.COUPLING,
        partial(_convolution, form=form),
        "transposed convolution" if transposed else "convolution: stride, padding, dilation, groups",
        modules=(module,),
        functions=(function, *exported),
        signature=_TRANSPOSED_SIGNATURE if transposed else _SIGNATURE,
        examples=((example, shape),),
        forms={kind: (form,)},
    )


_SIGNATURE = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_SIGNATURE = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")

RULES: tuple[Rule, ...] = (
    Rule(
        "linear",
        Role.COUPLING,
        _linear,
        "a matrix, with or without bias",
        modules=(nn.Linear,),
        functions=(F.linear, aten.linear.default),
        signature=("input", "weight", "bias"),
        examples=((lambda: nn.Linear(5, 4), (3, 5)),),
        forms={LINEAR: (_LINEAR,)},
    ),
    Rule(
        "matmul",
        Role.COUPLING,
        _matmul,
        "a product with a weight of the model",
        functions=(torch.matmul, torch.mm, operator.matmul, aten.matmul.default, aten.mm.default),
        methods=("matmul", "mm"),
        signature=("input", "other"),
        forms={MATMUL: (_PRODUCT,)},
    ),
    Rule(
        "addmm",
        Role.COUPLING,
        _matmul,
        "bias and product with a weight of the model",
        functions=(torch.addmm, aten.addmm.default),
        signature=("bias", "input", "other"),
        forms={MATMUL: (_PRODUCT,)},
    ),
    _rule(
        CONVOLUTIONS[1],
        nn.Conv1d,
        (aten.conv1d.default, aten.conv1d.padding),
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        (2, 4, 9),
    ),
    _rule(
        CONVOLUTIONS[2],
        nn.Conv2d,
        (aten.conv2d.default, aten.conv2d.padding),
        lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        (2, 3, 7, 6),
    ),
    _rule(
        CONVOLUTIONS[3],
        nn.Conv3d,
        (aten.conv3d.default, aten.conv3d.padding),
        lambda: nn.Conv3d(2, 3, 2),
        (2, 2, 4, 4, 3),
    ),
    _rule(
        TRANSPOSED_CONVOLUTIONS[1],
        nn.ConvTranspose1d,
        (aten.conv_transpose1d.default,),
        lambda: nn.ConvTranspose1d(4, 2, 3, stride=2),
        (2, 4, 5),
    ),
    _rule(
        TRANSPOSED_CONVOLUTIONS[2],
        nn.ConvTranspose2d,
        (aten.conv_transpose2d.input,),
        lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1),
        (2, 3, 4, 4),
    ),
    _rule(
        TRANSPOSED_CONVOLUTIONS[3],
        nn.ConvTranspose3d,
        (aten.conv_transpose3d.input,),
        lambda: nn.ConvTranspose3d(2, 3, 2),
        (2, 2, 3, 3, 3),
    ),
)
