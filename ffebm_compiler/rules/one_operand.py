"""How an operation of one operand reads: its constants choose a potential, or are the options of a coupling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..ir import Kind, Operation, Options, Potential
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


def coupling(
    kind: Kind,
    form: Form[Operation],
    summary: str,
    functions: tuple[Callable[..., Any], ...],
    methods: tuple[str, ...] = (),
    layer: tuple[Callable[[], nn.Module], tuple[int, ...]] | None = None,
    keeps_batch: Callable[[Options], bool] = lambda options: True,
    role: Role = Role.COUPLING,
    ignored: tuple[str, ...] = (),
) -> Rule:
    """The rule of an operation of one operand that a form makes of the call's constants.

    Args:
        layer: what makes a module of the class that it matches, and the shape of an input.
        keeps_batch: of the constants; see :class:`Reading`.
        ignored: further arguments, without a meaning here.
    """

    def read(call: Call) -> Reading | Refusal:
        if not call.constants(*form.options):
            return Refusal("its arguments are computed at run time")
        options = call.options(form.options)
        operands = (call.operand(),)
        return Reading(operands=operands, operation=form(options), keeps_batch=keeps_batch(options))

    return Rule(
        kind.name,
        role,
        read,
        summary,
        modules=() if layer is None else (type(layer[0]()),),
        functions=functions,
        methods=methods,
        signature=("input", *form.options, *ignored),
        examples=() if layer is None else (layer,),
        forms={kind: (form,)},
    )
