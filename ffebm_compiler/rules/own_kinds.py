"""The kind of what a user's rule reads, by what it computes and never by its name.

What computes the same as an operation or potential of the library is of that kind, and has its crossbars, netlists
and costs. Anything else keeps the kind that its rule gave it, unless that is one of the library's: it is then
:data:`~.ir.OTHER`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir import OTHER, Kind
from .forms import Given, Made, Spellings, fitting, same
from .registry import Forms
from .rule import Reading

OWN = "own "
"""Before the name of what only bears a name of the library's, where it is shown."""


def with_own_kind(reading: Reading, known: Forms) -> Reading:
    """The reading of a user's rule, its operation or potential of the kind of what it computes."""
    operation, potential = reading.operation, reading.potential
    given = tuple(o is not None for o in reading.operands)
    return replace(
        reading,
        operation=None if operation is None else _told_apart(operation, known.operations, given),
        potential=None if potential is None else _told_apart(potential, known.potentials, ()),
    )


def _told_apart(thing: Made, known: Mapping[Kind, Spellings[Made]], given: Given) -> Made:
    kind = next((k for k, spellings in known.items() if _makes(spellings, thing, given)), None)
    if kind is not None:
        return replace(thing, kind=kind)
    own = OTHER if thing.kind in known else thing.kind
    shadows = any(k.name == thing.name for k in known)
    return replace(thing, kind=own, name=OWN + thing.name if shadows else thing.name)


def _makes(spellings: Spellings[Made], thing: Made, given: Sequence[bool]) -> bool:
    """Whether a form makes what computes the same, however it is called and printed."""
    form = fitting(spellings, thing.options)
    if any(form.problems(thing.options, given or None)):
        return False
    made = form(thing.options, tuple(given))
    return same(replace(thing, name=made.name, text=made.text, tex=made.tex, kind=made.kind), made)
