"""Sums, differences and multiples: residual connections, biases, scalar and learned scales."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from ..ir import Operation, Weight
from ..ir.functions import added, multiple, quotient, reflected, shifted
from .remake import NUMBER, Given, Kind, OperationRemakes, Options, Remake, plain
from .rule import Call, Reading, Refusal, Role, Rule, options

aten = torch.ops.aten
Number = (int, float)


def _operand(call: Call, value: Any) -> fx.Node | Weight | None:
    return call.as_operand(value)


def _add(call: Call, sign: int) -> Reading | Refusal:
    left, right = call.arguments["input"], call.arguments["other"]
    alpha = call.option("alpha", 1)
    if not isinstance(alpha, Number):
        return Refusal("alpha is computed at run time")
    factor = sign * alpha
    a, b = call.as_operand(left), call.as_operand(right)
    if a is not None and b is not None:
        return Reading(operands=(a, b), operation=_made("add", alpha=factor))
    if a is not None and isinstance(right, Number):
        return Reading(operands=(a,), operation=_made("shift", constant=factor * right))
    if b is not None and isinstance(left, Number):
        if factor == 1:
            return Reading(operands=(b,), operation=_made("shift", constant=left))
        if factor == -1:
            return Reading(operands=(b,), operation=_made("reflect", constant=left))
    return Refusal("it adds something that is neither a tensor nor a number")


def _sum_text(chosen: Options) -> str:
    factor = chosen["alpha"]
    mark, magnitude = ("+", factor) if factor >= 0 else ("−", -factor)
    times = "" if magnitude == 1 else f"{magnitude:g}·"
    return f"{{0}} {mark} {times}{{1}}"


def _multiple_text(chosen: Options) -> str:
    return "−{0}" if chosen["factor"] == -1 else f"{chosen['factor']:g}·{{0}}"


@dataclass(frozen=True)
class _Printed:
    """An operation whose constants appear where it is printed."""

    name: str
    function: Callable[..., Any]
    text: Callable[[Options], str]

    def __call__(self, chosen: Options, given: Given = ()) -> Operation:
        text = self.text(chosen)
        tex = text.replace("−", "-").replace("·", r"\cdot ")
        return Operation(name=self.name, function=self.function, options=chosen, text=text, tex=tex)


_PRINTED = {
    ("add", "alpha"): _Printed("add", added, _sum_text),
    ("shift", "constant"): _Printed("shift", shifted, lambda o: f"{{0}} + {o['constant']:g}"),
    ("reflect", "constant"): _Printed("reflect", reflected, lambda o: f"{o['constant']:g} − {{0}}"),
    ("scale", "factor"): _Printed("scale", multiple, _multiple_text),
    ("scale", "divisor"): _Printed("scale", quotient, lambda o: f"{{0}}/{o['divisor']:g}"),
}
_BY_WEIGHT = Operation(name="scale_by_weight", function=torch.mul, text="{1}·{0}", tex=r"{1}\odot {0}")


def _made(name: str, **constant: float) -> Operation:
    ((option, _),) = constant.items()
    return _PRINTED[name, option](options(**constant))


def _multiply(call: Call) -> Reading | Refusal:
    left, right = call.arguments["input"], call.arguments["other"]
    a, b = call.as_operand(left), call.as_operand(right)
    if a is not None and isinstance(right, Number):
        return Reading(operands=(a,), operation=_made("scale", factor=right))
    if b is not None and isinstance(left, Number):
        return Reading(operands=(b,), operation=_made("scale", factor=left))
    if isinstance(a, Weight) != isinstance(b, Weight):
        value, weight = (b, a) if isinstance(a, Weight) else (a, b)
        return Reading(operands=(value, weight), operation=_BY_WEIGHT)
    return Refusal("a product of two computed values is not bilinear in state and weight")


def _divide(call: Call) -> Reading | Refusal:
    if call.arguments.get("rounding_mode") is not None:
        return Refusal("rounding is not linear")
    a, divisor = call.as_operand(call.arguments["input"]), call.arguments["other"]
    if a is not None and isinstance(divisor, Number):
        return Reading(operands=(a,), operation=_made("scale", divisor=divisor))
    return Refusal("it divides by a computed value")


def _negate(call: Call) -> Reading | Refusal:
    a = call.as_operand(call.value())
    if a is None:
        return Refusal("its operand is not a tensor")
    return Reading(operands=(a,), operation=_made("scale", factor=-1))


def _right_subtract(call: Call) -> Reading | Refusal:
    swapped = Call(
        call.node,
        call.module,
        call.path,
        {**call.arguments, "input": call.arguments["other"], "other": call.arguments["input"]},
        call.weights,
    )
    return _add(swapped, -1)


_TWO = ("input", "other")

ARITHMETIC_RULES: tuple[Rule, ...] = (
    Rule(
        "add",
        Role.COUPLING,
        partial(_add, sign=1),
        "a sum: residual connection, bias, constant",
        functions=(operator.add, operator.iadd, torch.add, aten.add.Tensor, aten.add_.Tensor, aten.add.Scalar),
        methods=("add", "add_"),
        signature=(*_TWO, "alpha"),
    ),
    Rule(
        "subtract",
        Role.COUPLING,
        partial(_add, sign=-1),
        "a difference",
        functions=(
            operator.sub,
            operator.isub,
            torch.sub,
            torch.subtract,
            aten.sub.Tensor,
            aten.sub_.Tensor,
            aten.sub.Scalar,
        ),
        methods=("sub", "sub_", "subtract"),
        signature=(*_TWO, "alpha"),
    ),
    Rule(
        "subtract_from",
        Role.COUPLING,
        _right_subtract,
        "a difference from a constant",
        functions=(torch.rsub, aten.rsub.Scalar),
        signature=(*_TWO, "alpha"),
    ),
    Rule(
        "multiply",
        Role.COUPLING,
        _multiply,
        "a multiple by a number or by a weight of the model",
        functions=(
            operator.mul,
            operator.imul,
            torch.mul,
            torch.multiply,
            aten.mul.Tensor,
            aten.mul_.Tensor,
            aten.mul.Scalar,
        ),
        methods=("mul", "mul_", "multiply"),
        signature=_TWO,
    ),
    Rule(
        "divide",
        Role.COUPLING,
        _divide,
        "a quotient by a number",
        functions=(
            operator.truediv,
            operator.itruediv,
            torch.div,
            torch.divide,
            torch.true_divide,
            aten.div.Tensor,
            aten.div_.Tensor,
            aten.div.Scalar,
        ),
        methods=("div", "div_", "divide"),
        signature=(*_TWO, "rounding_mode"),
    ),
    Rule(
        "negate",
        Role.COUPLING,
        _negate,
        "the negative",
        functions=(operator.neg, torch.neg, torch.negative, aten.neg.default),
        methods=("neg", "neg_"),
    ),
)

_DIVISOR = Kind("a finite number other than 0", lambda value: NUMBER.holds(value) and value != 0)

ARITHMETIC_OPERATIONS: OperationRemakes = {
    "add": (Remake(_PRINTED["add", "alpha"], {"alpha": NUMBER}, (2, 2)),),
    "shift": (Remake(_PRINTED["shift", "constant"], {"constant": NUMBER}),),
    "reflect": (Remake(_PRINTED["reflect", "constant"], {"constant": NUMBER}),),
    "scale": (
        Remake(_PRINTED["scale", "factor"], {"factor": NUMBER}),
        Remake(_PRINTED["scale", "divisor"], {"divisor": _DIVISOR}),
    ),
    "scale_by_weight": plain(_BY_WEIGHT, (2, 2)),
}
