"""Operations and potentials of a user's own, which a bundle can't hold: it has names and options, and no code."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from ...ir import Operation, Origin, Potential, Program, State, Term
from ...rules import Remakes
from ...rules.own_names import OWN, remade
from ...rules.remake import same
from ..format.contents import Contents

_REMEDY = (
    'Keep the layer digital (digital=["{layer}"]), and ONNX holds it; or register the {kind} with a name of its own, to write and to read: '
    "write_bundle(contents, path, known=REMAKES.extended({table}={{{name!r}: ...}})), read_bundle(path, known)."
)


def own_rule_problems(contents: Contents, known: Remakes) -> Iterator[Problem]:
    """One problem a layer whose operation or potential is not made again from its name and options."""
    found: dict[str, Problem] = {}
    for mode in contents.modes.values():
        for origin, problem in _program_problems(mode.program, known):
            found.setdefault(origin.label, problem)
    yield from found.values()


def _program_problems(program: Program, known: Remakes) -> Iterator[tuple[Origin, Problem]]:
    for state in (s for block in program.energy_blocks for s in block.states):
        if not same(remade(state.potential, known.potentials), state.potential):
            yield state.origin, _problem(state, state.potential, "potential", "potentials")
        for term in state.drive.terms:
            given = [o is not None for o in term.operands]
            if not same(remade(term.operation, known.operations, given), term.operation):
                yield term.origin, _problem(term, term.operation, "operation", "operations")


def _problem(place: State | Term, thing: Operation | Potential, kind: str, table: str) -> Problem:
    remedy = _REMEDY.format(layer=place.origin.layer or place.origin.label, kind=kind, table=table, name=thing.name)
    what = f"has the {kind} {thing.name.removeprefix(OWN)} of a rule of your own, which its name and options do not make again"
    return Problem(f"layer {place.origin}", what, remedy)
