"""How an operation of one operand reads: its constants choose a potential, or are the options of a coupling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..ir import Operation, Options, Potential
from .forms import Form, constant
from .rule import Call, Reading, Refusal, Role, Rule


def fixed(potential: Potential) -> Callable[[Call], Reading]:
    """The same potential for every call."""
    return lambda call: Reading(operands=(call.operand(),), potential=potential)


def activation(
    potential: Potential,
    summary: str,
    module: type[nn.Module],
    functions: tuple[Callable[..., Any], ...],
    methods: tuple[str, ...] = (),
) -> Rule:
    """The rule of an elementwise activation without constants."""
    return Rule(
        potential.name,
        Role.POTENTIAL,
        fixed(potential),
        summary,
        modules=(module,),
        functions=functions,
        methods=methods,
        signature=("input", "inplace"),
        examples=((module, (3, 5)),),
        forms={potential.kind: constant(potential)},
    )


def chosen(make: Callable[[Call], Potential | Refusal]) -> Callable[[Call], Reading | Refusal]:
    """The potential that ``make`` finds in the call's constants, or its refusal."""

    def read(call: Call) -> Reading | Refusal:
        made = make(call)
        if isinstance(made, Refusal):
            return made
        return Reading(operands=(call.operand(),), potential=made)

    return read


def coupled(
    form: Form[Operation], keeps_batch: Callable[[Options], bool] = lambda options: True
) -> Callable[[Call], Reading | Refusal]:
    """The operation that a form makes of the call's constants; ``keeps_batch`` of these: see :class:`Reading`."""

    def read(call: Call) -> Reading | Refusal:
        if not call.constants(*form.options):
            return Refusal("its arguments are computed at run time")
        options = call.options(form.options)
        operands = (call.operand(),)
        return Reading(operands=operands, operation=form(options), keeps_batch=keeps_batch(options))

    return read
