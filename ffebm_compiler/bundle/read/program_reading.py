"""The program of a bundle from its document, which its schema has been found to hold for.

Operations and potentials are made again from their names and options by the tables of the rules; nothing else in a document
becomes code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...ir import (
    IDENTITY,
    Coupling,
    DigitalBlock,
    EnergyBlock,
    Operand,
    Operation,
    Origin,
    Potential,
    Program,
    State,
    Step,
    Term,
    Weight,
)
from ...onnx import Interface, Port, Unexportable
from ...rules import Forms
from ...rules.forms import fitting
from ...solve import Gains
from ..format.contents import Mode, part_block
from ..format.values import NotPlainError, decode
from ..write.program_writing import PORTS

Document = Mapping[str, Any]
_UNKNOWN = Operation(name="unknown", function=lambda *operands: operands[0])


@dataclass
class Reader:
    """Reads modes, and collects what is wrong with them.

    Attributes:
        forms: the operations and potentials that can be made again.
        problems: what was found, each with the user's layer.
    """

    forms: Forms
    problems: list[str] = field(default_factory=list)

    def mode(self, document: Document) -> Mode:
        """One mode; where there are problems, what it says is no use."""
        result = self._value(document["result"], "its result")
        program = Program(
            inputs=tuple(document["inputs"]),
            steps=tuple(map(self._step, document["steps"])),
            output=result,
            labels=dict(document["labels"]),
            origins={name: _origin(o) for name, o in document["origins"].items()},
        )
        parts = {n: {k: _interface(k, i) for k, i in kinds.items()} for n, kinds in document["parts"].items()}
        call = self._value(document["call"], "its call")
        defaults = self.options(document["defaults"], "its defaults")
        sizes = {name: tuple(found) for name, found in document.get("sizes", {}).items()}
        return Mode(program, parts, result, call, defaults, sizes)

    def options(self, document: Document, where: str) -> dict[str, Any]:
        """Options by name."""
        return {name: self._value(value, f"{where}, option {name}") for name, value in document.items()}

    def _value(self, document: Any, where: str) -> Any:
        try:
            return decode(document)
        except NotPlainError as failure:
            self.problems.append(f"{where}: {failure}")
            return None

    def _step(self, document: Document) -> Step:
        return self._block(document) if "block" in document else _digital(document)

    def _block(self, document: Document) -> EnergyBlock:
        return EnergyBlock(
            name=document["block"],
            states=tuple(map(self._state, document["states"])),
            inputs=tuple(document["inputs"]),
            outputs=tuple(document["outputs"]),
            held_norms=tuple(map(_origin, document["held_norms"])),
        )

    def _state(self, document: Document) -> State:
        origin = _origin(document["origin"])
        potential = self._potential(document["potential"], f"layer {origin}")
        return State(document["state"], potential, self._coupling(document["drive"]), origin)

    def _potential(self, document: Document, where: str) -> Potential:
        name, options = document["name"], self.options(document["options"], where)
        spellings = self.forms.potential_named(name)
        if spellings is None:
            self.problems.append(f"{where}: the potential {name!r} is not known here")
            return IDENTITY
        form = fitting(spellings, options)
        wrong = [f"{where}: the potential {name} {p}" for p in form.problems(options)]
        found = IDENTITY if wrong else form(options)
        if not found.lower <= found.upper:
            wrong.append(f"{where}: the potential {name} is empty between {found.lower:g} and {found.upper:g}")
        self.problems += wrong
        return found

    def _coupling(self, document: Document) -> Coupling:
        return Coupling(
            terms=tuple(map(self._term, document["terms"])),
            output=document["output"],
            sources=tuple(document["sources"]),
            inputs=tuple(document["inputs"]),
            weights=tuple(document["weights"]),
        )

    def _term(self, document: Document) -> Term:
        origin = _origin(document["origin"])
        operands = tuple(map(_operand, document["operands"]))
        given = tuple(o is not None for o in operands)
        operation = self._operation(document["operation"], document["options"], given, f"layer {origin}")
        return Term(document["term"], operation, operands, origin)

    def _operation(self, name: str, document: Document, given: tuple[bool, ...], where: str) -> Operation:
        options = self.options(document, where)
        spellings = self.forms.operation_named(name)
        if spellings is None:
            self.problems.append(f"{where}: the operation {name!r} is not known here")
            return _UNKNOWN
        form = fitting(spellings, options)
        wrong = [f"{where}: the operation {name} {p}" for p in form.problems(options, given)]
        self.problems += wrong
        return _UNKNOWN if wrong else form(options, given)


def _origin(document: Document) -> Origin:
    return Origin(document["label"], document["layer"], document["kind"], document["location"])


def _operand(document: Document | None) -> Operand:
    if document is None:
        return None
    return Weight(document["weight"]) if "weight" in document else str(document["value"])


def _digital(document: Document) -> DigitalBlock:
    origins = [_origin(o) for o in document["origins"]]
    return part_block(document["digital"], document["inputs"], document["outputs"], origins, dict(document["reasons"]))


def _interface(kind: str, document: Document) -> Interface:
    return Interface(kind, **{group: tuple(map(_port, document[group])) for group in PORTS})


def _port(document: Document) -> Port:
    return Port(document["name"], document["value"], document["dtype"], tuple(document["shape"]))


def read_gains(document: Document, directions: Mapping[str, Tensor]) -> dict[str, Gains]:
    """The reverse gains by block; their directions are among the given tensors."""
    return {key: _gains(value, directions) for key, value in document.items()}


def _gains(document: Document, directions: Mapping[str, Tensor]) -> Gains:
    return Gains(
        layer_weights={state: float(w) for state, w in document["layer_weights"].items()},
        norms={(n["from"], n["to"]): float(n["norm"]) for n in document["norms"]},
        directions={(d["from"], d["to"]): directions[d["tensor"]] for d in document["directions"]},
        outdated=document["outdated"],
    )


def read_refused(document: list[Document]) -> tuple[Unexportable, ...]:
    """The graphs that there are not."""
    return tuple(Unexportable(r["part"], r["kind"], r["operation"], r["reason"]) for r in document)
