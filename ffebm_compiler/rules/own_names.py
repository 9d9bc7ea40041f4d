"""Names of what a user's rule reads: never one by which the library knows something else.

Backends look operations and potentials up by name: how a weight lies on an array, how a neuron is written as a circuit. Whatever bears a
name of the library's and computes something else gets another name, so that no table takes it for what it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .remake import Made, Remake, Remakes, fitting, same
from .rule import Reading

OWN = "own "
"""Before the name of what a user's rule reads, where the library knows something else by it."""


def named_apart(reading: Reading, known: Remakes) -> Reading:
    """The same reading, with ``own`` before the name of an operation or potential that computes something else than the one known by it."""
    operation, potential = reading.operation, reading.potential
    if operation is not None and operation.name in known.operations:
        given = [o is not None for o in reading.operands]
        made = remade(operation, known.operations, given)
        if made is None or not same(replace(operation, text=made.text, tex=made.tex), made):
            operation = replace(operation, name=OWN + operation.name)
    if potential is not None and potential.name in known.potentials:
        again = remade(potential, known.potentials)
        if again is None or not same(replace(potential, text=again.text, tex=again.tex), again):
            potential = replace(potential, name=OWN + potential.name)
    return replace(reading, operation=operation, potential=potential)


def remade(
    thing: Made, known: Mapping[str, tuple[Remake[Made], ...]], given: Sequence[bool] | None = None
) -> Made | None:
    """What its name and options make: of an operation, for the operands that are given; None where they make nothing."""
    spellings = known.get(thing.name)
    if spellings is None:
        return None
    remake = fitting(spellings, thing.options)
    return None if any(remake.problems(thing.options, given)) else remake(thing.options, tuple(given or ()))
