"""The program of a bundle as a document, ``program.json``; :mod:`.program_reading` reads it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ...ir import Coupling, DigitalBlock, EnergyBlock, Operand, Origin, Potential, State, Step, Term, Weight
from ...onnx import Interface, Port
from ...solve import Gains
from ..format.contents import Contents, Mode
from ..format.values import encode

SAME = "evaluation"
"""What stands for the program of training where it is that of evaluation."""

Document = dict[str, Any]
PORTS = tuple(f.name for f in fields(Interface) if f.name != "kind")


def program_document(contents: Contents) -> Document:
    """The document, of plain values.

    Raises:
        NotPlainError: an option or a constant is not plain.
    """
    evaluation, training = contents.modes[False], contents.modes[True]
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
        "execution": _execution(contents.execution),
        "gains": _all_gains(contents.gains),
        "refused": [
            {"part": r.part, "kind": r.kind, "operation": r.operation, "reason": r.reason} for r in contents.refused
        ],
    }


def _execution(execution: Mapping[str, Any]) -> Document:
    estimator = execution["estimator"]
    return {
        **{name: encode(execution[name]) for name in ("loop_gain", "tolerance", "max_sweeps")},
        "estimator": {"name": estimator["name"], "options": _options(estimator["options"])},
    }


def _options(options: Mapping[str, Any]) -> Document:
    return {name: encode(value) for name, value in options.items()}


# --- a mode -------------------------------------------------------------------------------------------------


def _mode(mode: Mode) -> Document:
    program = mode.program
    return {
        "inputs": list(program.inputs),
        "steps": [_step(s) for s in program],
        "result": encode(mode.result),
        "call": encode(mode.call),
        "defaults": _options(mode.defaults),
        "sizes": {name: list(sizes) for name, sizes in mode.sizes.items()},
        "labels": dict(program.labels),
        "origins": {name: _origin(o) for name, o in program.origins.items()},
        "parts": {name: {kind: _interface(i) for kind, i in kinds.items()} for name, kinds in mode.parts.items()},
    }


def _origin(origin: Origin) -> Document:
    return {"label": origin.label, "layer": origin.layer, "kind": origin.kind, "location": origin.location}


def _interface(interface: Interface) -> Document:
    return {group: [_port(p) for p in getattr(interface, group)] for group in PORTS}


def _port(port: Port) -> Document:
    return {"name": port.name, "value": port.value, "dtype": port.dtype, "shape": list(port.shape)}


def _step(step: Step) -> Document:
    return _digital(step) if isinstance(step, DigitalBlock) else _block(step)


def _digital(block: DigitalBlock) -> Document:
    return {
        "digital": block.name,
        "inputs": list(block.inputs),
        "outputs": list(block.outputs),
        "origins": [_origin(o) for o in block.origins],
        "reasons": dict(block.reasons),
    }


def _block(block: EnergyBlock) -> Document:
    return {
        "block": block.name,
        "states": [_state(s) for s in block.states],
        "inputs": list(block.inputs),
        "outputs": list(block.outputs),
        "held_norms": [_origin(o) for o in block.held_norms],
    }


def _state(state: State) -> Document:
    return {
        "state": state.name,
        "potential": _potential(state.potential),
        "drive": _coupling(state.drive),
        "origin": _origin(state.origin),
    }


def _potential(potential: Potential) -> Document:
    return {"name": potential.kind.name, "options": _options(potential.options)}


def _coupling(drive: Coupling) -> Document:
    return {
        "terms": [_term(t) for t in drive.terms],
        "output": drive.output,
        "sources": list(drive.sources),
        "inputs": list(drive.inputs),
        "weights": list(drive.weights),
    }


def _term(term: Term) -> Document:
    return {
        "term": term.name,
        "operation": term.operation.kind.name,
        "options": _options(term.operation.options),
        "operands": [_operand(o) for o in term.operands],
        "origin": _origin(term.origin),
    }


def _operand(operand: Operand) -> Document | None:
    if operand is None:
        return None
    return {"weight": operand.path} if isinstance(operand, Weight) else {"value": operand}


# --- gains --------------------------------------------------------------------------------------------------


def _all_gains(gains: Mapping[str, Gains]) -> Document:
    """Their directions are numbered through, in order: the names of their tensors."""
    found: Document = {}
    count = 0
    for key, value in gains.items():
        names = [str(count + i) for i in range(len(value.directions))]
        count += len(names)
        found[key] = {
            "layer_weights": {state: float(w) for state, w in value.layer_weights.items()},
            "norms": [{"from": l, "to": m, "norm": float(norm)} for (l, m), norm in value.norms.items()],
            "directions": [
                {"from": l, "to": m, "tensor": n} for (l, m), n in zip(value.directions, names, strict=True)
            ],
            "outdated": value.outdated,
        }
    return found
