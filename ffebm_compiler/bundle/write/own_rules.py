"""Operations and potentials of a user's own, which a bundle can't hold: it has names and options, and no code."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from ...ir import Operation, Origin, Potential, Program, State, Term
from ...rules import Forms
from ...rules.forms import same
from ...rules.own_kinds import OWN
from ..format.contents import Contents

_REMEDY = (
    'Keep the layer digital (digital=["{layer}"]), and ONNX holds it; or give the {what} a kind, '
    "kind=Kind({name!r}, __name__), and its rule the forms of that kind, to write and to read: "
    "write_bundle(contents, path, known=FORMS.extended([rule])), read_bundle(path, known)."
)


def own_rule_problems(contents: Contents, known: Forms) -> Iterator[Problem]:
    """One problem a layer whose operation or potential is not made again from its name and options."""
    found: dict[str, Problem] = {}
    for mode in contents.modes.values():
        for origin, problem in _program_problems(mode.program, known):
            found.setdefault(origin.label, problem)
    yield from found.values()


def _program_problems(program: Program, known: Forms) -> Iterator[tuple[Origin, Problem]]:
    for state in (s for block in program.energy_blocks for s in block.states):
        if not same(known.potential_again(state.potential), state.potential):
            yield state.origin, _problem(state, state.potential, "potential")
        for term in state.drive.terms:
            given = tuple(o is not None for o in term.operands)
            if not same(known.operation_again(term.operation, given), term.operation):
                yield term.origin, _problem(term, term.operation, "operation")


def _problem(place: State | Term, thing: Operation | Potential, what: str) -> Problem:
    name = thing.name.removeprefix(OWN)
    remedy = _REMEDY.format(layer=place.origin.layer or place.origin.label, what=what, name=name)
    says = f"has the {what} {name} of a rule of your own, which its name and options do not make again"
    return Problem(f"layer {place.origin}", says, remedy)
