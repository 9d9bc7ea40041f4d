"""Sums, differences and multiples: residual connections, biases, scalar and learned scales."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..ir import Kind, Operation, Options, Weight
from ..ir.functions import added, multiple, quotient, reflected, shifted
from .forms import Form, Given, plain
from .option_types import NUMBER, OptionType
from .rule import Call, Reading, Refusal, Role, Rule

aten = torch.ops.aten
Number = (int, float)

ADD, SHIFT, REFLECT, SCALE = (Kind(name, __name__) for name in ("add", "shift", "reflect", "scale"))
SCALE_BY_WEIGHT = Kind("scale_by_weight", __name__)


def _printed(
    chosen: Options, given: Given, kind: Kind, function: Callable[..., Any], text: Callable[..., str]
) -> Operation:
    """An operation whose constants appear where it is printed."""
    shown = text(**chosen)
    tex = shown.replace("−", "-").replace("·", r"\cdot ")
    return Operation(name=kind.name, function=function, options=chosen, text=shown, tex=tex, kind=kind)


def _sum_text(alpha: float) -> str:
    mark, magnitude = ("+", alpha) if alpha >= 0 else ("−", -alpha)
    times = "" if magnitude == 1 else f"{magnitude:g}·"
    return f"{{0}} {mark} {times}{{1}}"


def _multiple_text(factor: float) -> str:
    return "−{0}" if factor == -1 else f"{factor:g}·{{0}}"


def _form(
    kind: Kind, function: Callable[..., Any], text: Callable[..., str], operands: int = 1, **constant: OptionType
) -> Form[Operation]:
    return Form(partial(_printed, kind=kind, function=function, text=text), constant, (operands, operands))


_DIVISOR = OptionType("a finite number other than 0", lambda value: NUMBER.holds(value) and value != 0)

_ADD = _form(ADD, added, _sum_text, 2, alpha=NUMBER)
_SHIFT = _form(SHIFT, shifted, lambda constant: f"{{0}} + {constant:g}", constant=NUMBER)
_REFLECT = _form(REFLECT, reflected, lambda constant: f"{constant:g} − {{0}}", constant=NUMBER)
_MULTIPLE = _form(SCALE, multiple, _multiple_text, factor=NUMBER)
_QUOTIENT = _form(SCALE, quotient, lambda divisor: f"{{0}}/{divisor:g}", divisor=_DIVISOR)
_BY_WEIGHT = Operation(
    name=SCALE_BY_WEIGHT.name, function=torch.mul, text="{1}·{0}", tex=r"{1}\odot {0}", kind=SCALE_BY_WEIGHT
)


def _add(call: Call, sign: int) -> Reading | Refusal:
    left, right = call.arguments["input"], call.arguments["other"]
    alpha = call.option("alpha", 1)
    if not isinstance(alpha, Number):
        return Refusal("alpha is computed at run time")
    factor = sign * alpha
    a, b = call.as_operand(left), call.as_operand(right)
    if a is not None and b is not None:
        return Reading(operands=(a, b), operation=_ADD(dict(alpha=factor)))
    if a is not None and isinstance(right, Number):
        return Reading(operands=(a,), operation=_SHIFT(dict(constant=factor * right)))
    if b is not None and isinstance(left, Number):
        if factor == 1:
            return Reading(operands=(b,), operation=_SHIFT(dict(constant=left)))
        if factor == -1:
            return Reading(operands=(b,), operation=_REFLECT(dict(constant=left)))
    return Refusal("it adds something that is neither a tensor nor a number")


def _multiply(call: Call) -> Reading | Refusal:
    left, right = call.arguments["input"], call.arguments["other"]
    a, b = call.as_operand(left), call.as_operand(right)
    if a is not None and isinstance(right, Number):
        return Reading(operands=(a,), operation=_MULTIPLE(dict(factor=right)))
    if b is not None and isinstance(left, Number):
        return Reading(operands=(b,), operation=_MULTIPLE(dict(factor=left)))
    if isinstance(a, Weight) != isinstance(b, Weight):
        value, weight = (b, a) if isinstance(a, Weight) else (a, b)
        return Reading(operands=(value, weight), operation=_BY_WEIGHT)
    return Refusal("a product of two computed values is not bilinear in state and weight")


def _divide(call: Call) -> Reading | Refusal:
    if call.arguments.get("rounding_mode") is not None:
        return Refusal("rounding is not linear")
    a, divisor = call.as_operand(call.arguments["input"]), call.arguments["other"]
    if a is not None and isinstance(divisor, Number):
        return Reading(operands=(a,), operation=_QUOTIENT(dict(divisor=divisor)))
    return Refusal("it divides by a computed value")


def _negate(call: Call) -> Reading | Refusal:
    a = call.operand()
    if a is None:
        return Refusal("its operand is not a tensor")
    return Reading(operands=(a,), operation=_MULTIPLE(dict(factor=-1)))


def _right_subtract(call: Call) -> Reading | Refusal:
    left, right = call.arguments["input"], call.arguments["other"]
    return _add(replace(call, arguments={**call.arguments, "input": right, "other": left}), -1)


def _exported(operation: Any, in_place: Any) -> tuple[Callable[..., Any], ...]:
    """What torch.export writes for a sum, a difference, a product or a quotient."""
    return operation.Tensor, in_place.Tensor, operation.Scalar


_TWO = ("input", "other")


_SUM = {ADD: (_ADD,), SHIFT: (_SHIFT,), REFLECT: (_REFLECT,)}
_SCALE = (_MULTIPLE, _QUOTIENT)

RULES: tuple[Rule, ...] = (
    Rule(
        "add",
        Role.COUPLING,
        partial(_add, sign=1),
        "a sum: residual connection, bias, constant",
        functions=(operator.add, operator.iadd, torch.add, *_exported(aten.add, aten.add_)),
        methods=("add", "add_"),
        signature=(*_TWO, "alpha"),
        forms=_SUM,
    ),
    Rule(
        "subtract",
        Role.COUPLING,
        partial(_add, sign=-1),
        "a difference",
        functions=(operator.sub, operator.isub, torch.sub, torch.subtract, *_exported(aten.sub, aten.sub_)),
        methods=("sub", "sub_", "subtract"),
        signature=(*_TWO, "alpha"),
        forms=_SUM,
    ),
    Rule(
        "subtract_from",
        Role.COUPLING,
        _right_subtract,
        "a difference from a constant",
        functions=(torch.rsub, aten.rsub.Scalar),
        signature=(*_TWO, "alpha"),
        forms=_SUM,
    ),
    Rule(
        "multiply",
        Role.COUPLING,
        _multiply,
        "a multiple by a number or by a weight of the model",
        functions=(operator.mul, operator.imul, torch.mul, torch.multiply, *_exported(aten.mul, aten.mul_)),
        methods=("mul", "mul_", "multiply"),
        signature=_TWO,
        forms={SCALE: _SCALE, SCALE_BY_WEIGHT: plain(_BY_WEIGHT, (2, 2))},
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
            *_exported(aten.div, aten.div_),
        ),
        methods=("div", "div_", "divide"),
        signature=(*_TWO, "rounding_mode"),
        forms={SCALE: _SCALE},
    ),
    Rule(
        "negate",
        Role.COUPLING,
        _negate,
        "the negative",
        functions=(operator.neg, torch.neg, torch.negative, aten.neg.default),
        methods=("neg", "neg_"),
        forms={SCALE: _SCALE},
    ),
)
