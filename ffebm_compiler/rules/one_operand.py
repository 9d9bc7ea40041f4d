"""How an operation of one operand reads: its constants choose a potential, or are the options of a coupling."""

from __future__ import annotations

from collections.abc import Callable

from ..ir import Operation, Options, Potential
from .forms import Form
from .rule import Call, Reading, Refusal


def fixed(potential: Potential) -> Callable[[Call], Reading]:
    """The same potential for every call."""
    return lambda call: Reading(operands=(call.as_operand(call.value()),), potential=potential)


def chosen(make: Callable[[Call], Potential | Refusal]) -> Callable[[Call], Reading | Refusal]:
    """The potential that ``make`` finds in the call's constants, or its refusal."""

    def read(call: Call) -> Reading | Refusal:
        made = make(call)
        if isinstance(made, Refusal):
            return made
        return Reading(operands=(call.as_operand(call.value()),), potential=made)

    return read


def coupled(
    form: Form[Operation], keeps_batch: Callable[[Options], bool] = lambda options: True
) -> Callable[[Call], Reading | Refusal]:
    """The operation that a form makes of the call's constants; ``keeps_batch`` of these: see :class:`Reading`."""

    def read(call: Call) -> Reading | Refusal:
        if not call.constants(*form.options):
            return Refusal("its arguments are computed at run time")
        options = call.options(form.options)
        operands = (call.as_operand(call.value()),)
        return Reading(operands=operands, operation=form(options), keeps_batch=keeps_batch(options))

    return read
