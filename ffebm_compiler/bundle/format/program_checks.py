"""Whether a program can run: every value is written before it is read, every coupling follows from what it lists.

Each check yields what is wrong, in words that follow the name of the mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ...ir import Coupling, EnergyBlock, Program, Ref, Term, Weight
from ...rules.forms import same


def program_problems(program: Program) -> Iterator[str]:
    """Values that are read before they are written, or written twice."""
    known = set(program.inputs)
    yield from repeated("inputs", program.inputs)
    yield from repeated("steps", [s.name for s in program])
    for step in program:
        yield from repeated(f"{step.name}, inputs", step.inputs)
        yield from repeated(f"{step.name}, outputs", step.outputs)
        yield from (f"{step.name} reads {n}, which is not written before" for n in step.inputs if n not in known)
        if isinstance(step, EnergyBlock):
            yield from block_problems(step, program.labels)
        yield from (f"{step.name} writes {n}, which is written before" for n in step.outputs if n in known)
        known.update(step.outputs)
    yield from (f"its result reads {r.name}, which nothing writes" for r in refs(program.output) if r.name not in known)


def block_problems(block: EnergyBlock, labels: Mapping[str, str]) -> Iterator[str]:
    yield from repeated(f"{block.name}, states", [s.name for s in block.states])
    names, inputs = {s.name for s in block.states}, set(block.inputs)
    yield from (f"{block.name} has the output {n}, which is no state" for n in block.outputs if n not in names)
    yield from (f"{block.name}: {n} is an input and a state" for n in block.inputs if n in names)
    yield from (f"{block.name}: the state {s.name} has no label" for s in block.states if s.name not in labels)
    terms: dict[str, Term] = {}
    earlier: set[str] = set()
    for state in block.states:
        where = f"{block.name}, layer {state.origin}"
        yield from (f"{where}: {p}" for p in coupling_problems(state.drive, earlier, inputs))
        for term in state.drive.terms:
            if not _same_term(terms.setdefault(term.name, term), term):
                yield f"{where}: the term {term.name} is another one in an earlier state"
        earlier.add(state.name)
    taken = names | inputs
    yield from (f"{block.name}: the term {n} has the name of a value" for n in terms if n in taken)
    unread = inputs - {i for s in block.states for i in s.drive.inputs}
    yield from (f"{block.name} does not read its input {n}" for n in sorted(unread))


def _same_term(one: Term, other: Term) -> bool:
    same_place = (one.operands, one.origin) == (other.operands, other.origin)
    return one is other or (same_place and same(one.operation, other.operation))


def coupling_problems(drive: Coupling, states: Collection[str], inputs: Collection[str]) -> Iterator[str]:
    """A coupling whose terms do not follow from its sources, inputs and weights."""
    yield from repeated("sources, inputs and weights", [*drive.sources, *drive.inputs, *drive.weights])
    yield from repeated("terms", [t.name for t in drive.terms])
    yield from (f"reads the state {n}, which is not an earlier one" for n in drive.sources if n not in states)
    yield from (f"reads {n}, which is no input of the block" for n in drive.inputs if n not in inputs)
    outside = {*drive.sources, *drive.inputs}
    known, read = set(outside), {drive.output}
    weights: set[str] = set()
    for term in drive.terms:
        values = {o for o in term.operands if isinstance(o, str)}
        yield from (f"the term {term.name} reads {n}, which is not known before" for n in sorted(values - known))
        weights |= {o.path for o in term.operands if isinstance(o, Weight)}
        known.add(term.name)
        read |= values
    if drive.output not in known:
        yield f"gives {drive.output}, which no term computes"
    yield from (f"lists {n}, which no term reads" for n in sorted(outside - read))
    yield from (f"lists the weight {n} or reads it, not both" for n in sorted(weights ^ set(drive.weights)))


def refs(nest: Any) -> Iterator[Ref]:
    yield from (leaf for leaf in leaves(nest) if isinstance(leaf, Ref))


def leaves(nest: Any) -> Iterator[Any]:
    """The leaves of a nest of containers."""
    if isinstance(nest, Mapping):
        nest = list(nest.values())
    if isinstance(nest, (list, tuple)):
        for inner in nest:
            yield from leaves(inner)
    else:
        yield nest


def repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    yield from (f"{what}: {name} is there twice" for name, count in Counter(names).items() if count > 1)
