"""Which circuits can be written: every refusal at once, in the user's layer names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ...errors import InputError, Problem
from ...rules.piecewise import CLIPS
from ..hardware.circuit import Bank, Circuit, Edge
from . import activations


def check_circuit(circuit: Circuit, most_devices: int) -> None:
    """
    Raises:
        InputError: with everything that no netlist can hold.
    """
    InputError.raise_if([*_problems(circuit)] or [*_too_large(circuit, most_devices)])


def devices(circuit: Circuit) -> int:
    """Devices that a netlist holds: pairs and feedback pairs (Hopfield), resistors (resistive)."""
    if circuit.physics == "resistive":
        return sum(int(e.positive.count_nonzero()) + int(e.negative.count_nonzero()) for e in circuit.edges)
    return sum(_pairs(e.positive, e.negative) * (1 if e.reverse is None else 2) for e in circuit.edges)


def _pairs(positive: Tensor, negative: Tensor) -> int:
    return int(((positive != 0) | (negative != 0)).sum())


def _problems(circuit: Circuit) -> Iterator[Problem]:
    if circuit.physics not in ("hopfield", "resistive"):
        yield Problem(f"block {circuit.block}", f"has the physics {circuit.physics!r}", "Give hopfield or resistive.")
        return
    for bank in circuit.banks:
        yield from _bank_problems(bank, circuit.physics)
    for edge in circuit.edges:
        yield from _edge_problems(edge, circuit)
    yield from _input_problems(circuit)


def _too_large(circuit: Circuit, most_devices: int) -> Iterator[Problem]:
    if (count := devices(circuit)) > most_devices:
        yield Problem(
            f"block {circuit.block}",
            f"has {count:,} devices, more than max_devices={most_devices:,}",
            "Export smaller blocks or inputs, or raise max_devices: ngspice needs minutes from about 500,000 on.",
        )


def _bank_problems(bank: Bank, physics: str) -> Iterator[Problem]:
    where = f"layer {bank.label}"
    if physics == "hopfield":
        yield from _hopfield_bank(bank, where)
    else:
        yield from _resistive_bank(bank, where)
    for name in ("offset", "gain", "drive", "nudge"):
        yield from _tensor(where, name, getattr(bank, name), (bank.drive.numel(),))
    if not bank.limit > 0:
        yield Problem(where, f"has the output limit {bank.limit}", "Give a limit above 0, or inf.")


def _hopfield_bank(bank: Bank, where: str) -> Iterator[Problem]:
    if activations.expression(bank.potential, "a") is None:
        yield Problem(
            where,
            f"has the activation {bank.potential.name}, for which there is no neuron circuit",
            f"Keep it digital, or use one of {', '.join(activations.known())}.",
        )


def _resistive_bank(bank: Bank, where: str) -> Iterator[Problem]:
    if bank.potential.kind not in CLIPS or bank.potential.simplex is not None:
        yield Problem(
            where,
            f"has the activation {bank.potential.name}, which is not a clipping: diodes can't make it",
            f"Use one of {', '.join(kind.name for kind in CLIPS)}, or physics hopfield.",
        )
    if bank.leak is not None:
        yield from _tensor(where, "leak", bank.leak, (bank.drive.numel(),), least=0.0)
    if bool((bank.offset != 0).any()) or bool((bank.gain != 1).any()):
        yield Problem(
            where,
            "has offsets or gains other than 0 and 1, which a node held by diodes does not have",
            "Put them into the drive, the leak and the amplifiers, or use physics hopfield.",
        )


def _edge_problems(edge: Edge, circuit: Circuit) -> Iterator[Problem]:
    where = f"layer {edge.label}"
    sizes = {b.name: b.drive.numel() for b in circuit.banks}
    known: Mapping[str, int] = {**{name: x.numel() for name, x in circuit.inputs.items()}, **sizes}
    if edge.source not in known or edge.target not in sizes:
        yield Problem(
            where, f"joins {edge.source} to {edge.target}", "Both must be in the circuit, the latter as a bank."
        )
        return
    shape = (sizes[edge.target], known[edge.source])
    for name in ("positive", "negative", "back_positive", "back_negative"):
        yield from _tensor(where, name, getattr(edge, name), shape, least=0.0)
    for name in ("reverse", "back"):
        gains = getattr(edge, name)
        if gains is not None:
            yield from _tensor(where, name, gains, shape[1:])
    if circuit.physics == "resistive" and not (
        torch.equal(edge.back_positive, edge.positive) and torch.equal(edge.back_negative, edge.negative)
    ):
        yield Problem(where, "has a second array for its feedback", "A resistor conducts both ways: use bidirectional.")


def _input_problems(circuit: Circuit) -> Iterator[Problem]:
    for name, x in circuit.inputs.items():
        where = f"input {circuit.input_labels.get(name, name)}"
        yield from _tensor(where, "values", x, (x.numel(),))
    for name in ("siemens", "volts", "time_constant"):
        value = getattr(circuit, name)
        if not 0 < value < float("inf"):
            yield Problem(f"block {circuit.block}", f"has {name} {value}", "It must be positive and finite.")


def _tensor(
    where: str, name: str, value: Tensor, shape: tuple[int, ...], least: float = -float("inf")
) -> Iterator[Problem]:
    if tuple(value.shape) != shape:
        yield Problem(where, f"has {name} of shape {tuple(value.shape)}", f"The shape must be {shape}.")
    elif not bool(torch.isfinite(value).all()):
        yield Problem(
            where, f"has {name} that are not finite", "Check the weights and the inputs for NaN and infinity."
        )
    elif value.numel() and float(value.min()) < least:
        yield Problem(where, f"has {name} below {least:g}", "A conductance is at least 0.")
