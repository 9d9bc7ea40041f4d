"""How an activation reads: one operand, and the potential that the call's constants choose."""

from __future__ import annotations

from collections.abc import Callable

from ..ir import Potential
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
