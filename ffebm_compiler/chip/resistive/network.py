"""A nonlinear resistive network: positive resistors, ideal diodes, bidirectional amplifiers. Its energy is a power.

    E = sum_m w_m [ 1/2 sum_ik P_ik (A s_k - s_i)^2 + N_ik (A s_k + s_i)^2
                    + 1/2 sum_i leak_i s_i^2 - (drive_i - nudge_i) s_i ]

on ``lower <= s <= upper``: half the power that the resistors of each bank m dissipate, weighted by w, less what the
current sources supply. With the current gain ``back = A w_m / w_l`` of each amplifier, ``- dE/ds_i / w_l`` is the
current into node i, so the network settles to the minimum. A chain of amplifiers of current gain 1/A has ``w_l = A^2
w_m``.

Sources: Kendall et al. 2020, arXiv 2006.01981, for the energy; Scellier 2024, ICML, arXiv 2402.11674, for the quadratic
program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError, Problem
from ...ir import Potential
from ...rules.piecewise import CLAMP
from ..hardware.circuit import Bank, Circuit
from ..hardware.circuit import Edge as Resistors


def diodes(lower: float, upper: float) -> Potential:
    """The activation of a node that ideal diodes hold in ``[lower, upper]``."""

    def difference(a: Tensor, da: Tensor) -> Tensor:
        c = a.clamp(lower, upper)
        return (da + (a - c)).clamp(lower - c, upper - c)

    return Potential(
        name=CLAMP.name,
        energy=lambda s: s * s / 2,
        activation=lambda a: a.clamp(lower, upper),
        difference=difference,
        tangent=lambda a, da: torch.where((a > lower) & (a < upper), da, 0.0),
        lower=lower,
        upper=upper,
        options=dict(lower=lower, upper=upper, scale=1.0, shift=0.0),
        kind=CLAMP,
    )


@dataclass(frozen=True)
class Drives:
    """What drives a circuit, of a whole batch.

    Attributes:
        inputs: (batch, n) voltages by input.
        currents: (batch, n) or (n,) into each bank, ``drive - nudge``.
    """

    inputs: Mapping[str, Tensor]
    currents: Mapping[str, Tensor]

    @staticmethod
    def for_circuit(
        circuit: Circuit, inputs: Mapping[str, Tensor] | None = None, nudges: Mapping[str, Tensor] | None = None
    ) -> Drives:
        """The circuit's own drives, or others in their place.

        Args:
            inputs: (batch, n) by input; the circuit's one sample by default.
            nudges: (batch, n) currents drawn from the nodes of a bank; the circuit's by default, also for a bank that
                is missing.
        """
        given = {n: v.unsqueeze(0) for n, v in circuit.inputs.items()} if inputs is None else dict(inputs)
        nudges = nudges or {}
        _check(circuit, given, nudges)
        return Drives(given, {b.name: b.drive - nudges.get(b.name, b.nudge) for b in circuit.banks})


def _check(circuit: Circuit, inputs: Mapping[str, Tensor], nudges: Mapping[str, Tensor]) -> None:
    """Raises one InputError with everything that does not fit the circuit."""
    problems = [
        *_unfit(inputs, {n: v.numel() for n, v in circuit.inputs.items()}, "input"),
        *_unfit(nudges, {b.name: b.drive.numel() for b in circuit.banks}, "nudge", complete=False),
        *_not_resistive(circuit),
    ]
    InputError.raise_if(problems)


def _unfit(
    given: Mapping[str, Tensor], sizes: Mapping[str, int], kind: str, complete: bool = True
) -> Iterator[Problem]:
    wanted = ", ".join(f"{n} of {size}" for n, size in sizes.items())
    for name in given.keys() | (sizes.keys() if complete else set()):
        if name not in given:
            yield Problem(f"{kind} {name}", "is missing", f"Give {wanted}.")
        elif name not in sizes or given[name].dim() != 2 or given[name].shape[1] != sizes[name]:
            yield Problem(f"{kind} {name}", f"has the shape {tuple(given[name].shape)}", f"Give (batch, n): {wanted}.")


def _not_resistive(circuit: Circuit) -> Iterator[Problem]:
    remedy = "Solve it as what it is, or make the circuit with physics='resistive'."
    if circuit.physics != "resistive":
        yield Problem(f"circuit {circuit.block}", f"has the physics {circuit.physics}", remedy)
    for bank in circuit.banks:
        if bool((bank.offset != 0).any()) or bool((bank.gain != 1).any()):
            yield Problem(
                f"bank {bank.label}",
                "has offsets or gains, which a node that diodes hold does not have",
                "Write an offset as a drive.",
            )


def energy(circuit: Circuit, states: Mapping[str, Tensor], drives: Drives) -> Tensor:
    """E of each sample, ``(batch,)``; differentiable in states and drives."""
    values = {**drives.inputs, **states}
    parts = [b.layer_weight * _bank_energy(b, circuit, values, drives.currents[b.name]) for b in circuit.banks]
    return torch.stack(torch.broadcast_tensors(*parts)).sum(0)


def _bank_energy(bank: Bank, circuit: Circuit, values: Mapping[str, Tensor], current: Tensor) -> Tensor:
    s = values[bank.name]
    power = sum((_power(e, values) for e in circuit.edges if e.target == bank.name), start=(leak(bank) * s * s).sum(1))
    return power / 2 - (current * s).sum(1)


def _power(edge: Resistors, values: Mapping[str, Tensor]) -> Tensor:
    """``sum_ik P_ik (A s_k - s_i)^2 + N_ik (A s_k + s_i)^2`` of each sample, by products of matrices."""
    s, v = values[edge.target], edge.gain * values[edge.source]
    both = edge.positive + edge.negative
    squares = (s * s * both.sum(1)).sum(1) + (v * v * both.sum(0)).sum(1)
    return squares - 2 * (s * (v @ (edge.positive - edge.negative).T)).sum(1)


def dissipated_power(circuit: Circuit, states: Mapping[str, Tensor], drives: Drives) -> Tensor:
    """Power in W that resistors and leaks turn into heat, ``(batch,)``; that of amplifiers and diodes is not in it."""
    values = {**drives.inputs, **states}
    resistors = [_power(e, values) for e in circuit.edges]
    leaks = [(leak(b) * states[b.name] ** 2).sum(1) for b in circuit.banks]
    watts: Tensor = sum(torch.broadcast_tensors(*resistors, *leaks)) * (circuit.siemens * circuit.volts**2)
    return watts


def leak(bank: Bank) -> Tensor:
    return torch.zeros_like(bank.drive) if bank.leak is None else bank.leak
