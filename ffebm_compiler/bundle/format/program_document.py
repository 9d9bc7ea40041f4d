"""The program of a bundle as a document, ``program.json``, and back: one table of fields serves both ways.

What is read has been found to fit its schema. Operations and potentials are made again from their names and options by
the forms of the rules; nothing else in a document becomes code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
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
    Term,
    Weight,
)
from ...onnx import Interface, Port, Unexportable
from ...rules import Forms
from ...rules.forms import fitting
from ...solve import Gains
from .contents import Contents, Mode, part_block
from .values import NotPlainError, decode, encode

SAME = "evaluation"
"""What stands for the program of training where it is that of evaluation."""

Document = dict[str, Any]
_UNKNOWN = Operation(name="unknown", function=lambda *operands: operands[0])


@dataclass
class Reader:
    """Reads documents, and collects what is wrong with them.

    Attributes:
        forms: the operations and potentials that can be made again.
        problems: what was found, each with the user's layer.
    """

    forms: Forms
    problems: list[str] = field(default_factory=list)

    def mode(self, document: Mapping[str, Any]) -> Mode:
        """One mode; where there are problems, what it says is no use."""
        result = self.value(document["result"], "its result")
        program = Program(
            inputs=tuple(document["inputs"]),
            steps=_STEPS.read(document["steps"], self, ""),
            output=result,
            labels=dict(document["labels"]),
            origins=_ORIGINS.read(document["origins"], self, ""),
        )
        parts = {
            name: {kind: Interface(kind, **ports) for kind, ports in kinds.items()}
            for name, kinds in _PARTS.read(document["parts"], self, "").items()
        }
        call = self.value(document["call"], "its call")
        defaults = self.options(document["defaults"], "its defaults")
        sizes = {name: tuple(shape) for name, shape in document.get("sizes", {}).items()}
        return Mode(program, parts, result, call, defaults, sizes)

    def value(self, document: Any, where: str) -> Any:
        """A plain value."""
        try:
            return decode(document)
        except NotPlainError as failure:
            self.problems.append(f"{where}: {failure}")
            return None

    def options(self, document: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Options by name."""
        return {name: self.value(value, f"{where}, option {name}") for name, value in document.items()}

    def potential(self, document: Mapping[str, Any], where: str) -> Potential:
        """The potential of that name, with its options."""
        name, options = document["name"], self.options(document["options"], where)
        spellings = self.forms.potential_named(name)
        if spellings is None:
            self.problems.append(f"{where}: the potential {name!r} is not known here")
            return IDENTITY
        form = fitting(spellings, options)
        wrong = [f"{where}: the potential {name} {p}" for p in form.problems(options)]
        made = IDENTITY if wrong else form(options)
        if not made.lower <= made.upper:
            wrong.append(f"{where}: the potential {name} is empty between {made.lower:g} and {made.upper:g}")
        self.problems += wrong
        return made

    def term(self, document: Mapping[str, Any], where: str) -> Term:
        """One line of a coupling."""
        origin = _ORIGIN.read(document["origin"], self, where)
        operands = tuple(map(_operand, document["operands"]))
        given = tuple(o is not None for o in operands)
        operation = self._operation(document["operation"], document["options"], given, f"layer {origin}")
        return Term(document["term"], operation, operands, origin)

    def _operation(self, name: str, document: Mapping[str, Any], given: tuple[bool, ...], where: str) -> Operation:
        options = self.options(document, where)
        spellings = self.forms.operation_named(name)
        if spellings is None:
            self.problems.append(f"{where}: the operation {name!r} is not known here")
            return _UNKNOWN
        form = fitting(spellings, options)
        wrong = [f"{where}: the operation {name} {p}" for p in form.problems(options, given)]
        self.problems += wrong
        return _UNKNOWN if wrong else form(options, given)


# --- the table of fields ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """How a value is written, and how it is read: ``read(document, reader, where)``."""

    write: Callable[[Any], Any]
    read: Callable[[Any, Reader, str], Any]


def _sequence(item: _Form) -> _Form:
    return _Form(lambda vs: [*map(item.write, vs)], lambda ds, r, where: tuple(item.read(d, r, where) for d in ds))


def _by_name(item: _Form) -> _Form:
    return _Form(
        lambda vs: {n: item.write(v) for n, v in vs.items()},
        lambda ds, r, where: {n: item.read(d, r, where) for n, d in ds.items()},
    )


def _record(make: Callable[..., Any], keys: Mapping[str, _Form], name: str = "") -> _Form:
    """A record of those fields, by their keys in the document; its name may stand under a key of its own."""

    def write(value: Any) -> Document:
        return {key: form.write(getattr(value, "name" if key == name else key)) for key, form in keys.items()}

    def read(document: Mapping[str, Any], reader: Reader, where: str) -> Any:
        inside = f"layer {_ORIGIN.read(document['origin'], reader, where)}" if "origin" in keys else where
        given = {key: form.read(document[key], reader, inside) for key, form in keys.items()}
        return make(**{"name" if key == name else key: value for key, value in given.items()})

    return _Form(write, read)


def _as_it_is(make: type) -> _Form:
    """A record of plain fields alone."""
    return _record(make, {f.name: _NAMES if f.name == "shape" else _PLAIN for f in fields(make)})


def _written_term(term: Term) -> Document:
    return {
        "term": term.name,
        "operation": term.operation.kind.name,
        "options": _OPTIONS.write(term.operation.options),
        "operands": [_written_operand(o) for o in term.operands],
        "origin": _ORIGIN.write(term.origin),
    }


def _written_operand(operand: Operand) -> Document | None:
    if operand is None:
        return None
    return {"weight": operand.path} if isinstance(operand, Weight) else {"value": operand}


def _operand(document: Mapping[str, Any] | None) -> Operand:
    if document is None:
        return None
    return Weight(document["weight"]) if "weight" in document else str(document["value"])


_PLAIN = _Form(lambda value: value, lambda document, reader, where: document)
_NAMES = _sequence(_PLAIN)
_TEXTS = _by_name(_PLAIN)
_OPTIONS = _Form(lambda options: {n: encode(v) for n, v in options.items()}, lambda d, r, where: r.options(d, where))
_ORIGIN = _as_it_is(Origin)
_ORIGINS = _by_name(_ORIGIN)
_REFUSED = _sequence(_as_it_is(Unexportable))
_PORTS = _record(dict, {f.name: _sequence(_as_it_is(Port)) for f in fields(Interface) if f.name != "kind"})
_PARTS = _by_name(_by_name(_PORTS))
_POTENTIAL = _Form(
    lambda p: {"name": p.kind.name, "options": _OPTIONS.write(p.options)}, lambda d, r, where: r.potential(d, where)
)
_TERM = _Form(_written_term, lambda d, r, where: r.term(d, where))
_COUPLING = _record(
    Coupling, {"terms": _sequence(_TERM), "output": _PLAIN, "sources": _NAMES, "inputs": _NAMES, "weights": _NAMES}
)
_STATE = _record(State, {"state": _PLAIN, "potential": _POTENTIAL, "drive": _COUPLING, "origin": _ORIGIN}, "state")
_BLOCK = _record(
    EnergyBlock,
    {
        "block": _PLAIN,
        "states": _sequence(_STATE),
        "inputs": _NAMES,
        "outputs": _NAMES,
        "held_norms": _sequence(_ORIGIN),
    },
    "block",
)
_DIGITAL = _record(
    part_block,
    {"digital": _PLAIN, "inputs": _NAMES, "outputs": _NAMES, "origins": _sequence(_ORIGIN), "reasons": _TEXTS},
    "digital",
)
_STEPS = _sequence(
    _Form(
        lambda step: (_DIGITAL if isinstance(step, DigitalBlock) else _BLOCK).write(step),
        lambda d, r, where: (_BLOCK if "block" in d else _DIGITAL).read(d, r, where),
    )
)


# --- the document -------------------------------------------------------------------------------------------------


def program_document(contents: Contents) -> Document:
    """The document, of plain values; NotPlainError if an option or a constant is not plain."""
    evaluation, training = contents.modes[False], contents.modes[True]
    estimator = contents.execution["estimator"]
    return {
        "model": contents.name,
        "training": contents.training,
        "modes": {
            "evaluation": _mode(evaluation),
            "training": SAME if training is evaluation else _mode(training),
        },
        "tensors": list(contents.tensors),
        "parameters": list(contents.parameters),
        "frozen": list(contents.frozen),
        "aliases": dict(contents.aliases),
        "hidden": list(contents.hidden),
        "execution": {
            **{name: encode(contents.execution[name]) for name in ("loop_gain", "tolerance", "max_sweeps")},
            "estimator": {"name": estimator["name"], "options": _OPTIONS.write(estimator["options"])},
        },
        "gains": _written_gains(contents.gains),
        "refused": _REFUSED.write(contents.refused),
    }


def _mode(mode: Mode) -> Document:
    program = mode.program
    return {
        "inputs": list(program.inputs),
        "steps": _STEPS.write(program),
        "result": encode(mode.result),
        "call": encode(mode.call),
        "defaults": _OPTIONS.write(mode.defaults),
        "sizes": _by_name(_NAMES).write(mode.sizes),
        "labels": dict(program.labels),
        "origins": _ORIGINS.write(program.origins),
        "parts": _PARTS.write(mode.parts),
    }


def _written_gains(gains: Mapping[str, Gains]) -> Document:
    """Their directions are numbered through, in order: the names of their tensors."""
    document: Document = {}
    count = 0
    for key, value in gains.items():
        directions = [{"from": l, "to": m, "tensor": str(count + i)} for i, (l, m) in enumerate(value.directions)]
        count += len(directions)
        document[key] = {
            "layer_weights": {state: float(w) for state, w in value.layer_weights.items()},
            "norms": [{"from": l, "to": m, "norm": float(norm)} for (l, m), norm in value.norms.items()],
            "directions": directions,
            "outdated": value.outdated,
        }
    return document


def read_gains(document: Mapping[str, Any], directions: Mapping[str, Tensor]) -> dict[str, Gains]:
    """The reverse gains by block; their directions are among the given tensors."""
    return {
        key: Gains(
            layer_weights={state: float(w) for state, w in gains["layer_weights"].items()},
            norms={(n["from"], n["to"]): float(n["norm"]) for n in gains["norms"]},
            directions={(d["from"], d["to"]): directions[d["tensor"]] for d in gains["directions"]},
            outdated=gains["outdated"],
        )
        for key, gains in document.items()
    }


def read_refused(document: list[Mapping[str, Any]]) -> tuple[Unexportable, ...]:
    """The graphs that there are not."""
    return tuple(Unexportable(**entry) for entry in document)
