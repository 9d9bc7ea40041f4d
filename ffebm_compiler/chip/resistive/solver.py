"""Exact block coordinate descent: where does a nonlinear resistive network settle?

Nodes of one bank share no resistor, so given all others the minimum over a bank is in closed form, Kirchhoff's current
law held by the diodes:

    s_i = clip( I_i / D_i, lower, upper),   D_i = leak_i + sum_k (P + N)_ik + sum_m back_i A_m sum_j (P + N)_ji

with I_i the currents from drives, sources and consumers. A sweep over the banks costs one product with the matrix of
each edge between banks, and one with its transpose; the products with those from the inputs are computed once.

Source: Scellier 2024, ICML, arXiv 2402.11674 (algorithm and complexity).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError, Problem
from ...solve import Equilibrium, States, Tolerance
from ...solve.iteration import iterate
from ..hardware.circuit import Bank, Circuit
from .network import Drives, leak

DEFAULT = Tolerance(max_sweeps=1000)


@dataclass(frozen=True)
class Node:
    """The closed form of one bank.

    Attributes:
        name: of the bank.
        total: (n,) D.
        lower, upper: what the diodes hold it in.
        fixed: (batch, n) or (n,) currents that no bank changes.
        below: (source, (n, n_source) matrix) of each bank that drives it.
        above: (consumer, (n_consumer, n) matrix, (n,) factor) of each bank that it drives.
    """

    name: str
    total: Tensor
    lower: float
    upper: float
    fixed: Tensor
    below: tuple[tuple[str, Tensor], ...]
    above: tuple[tuple[str, Tensor, Tensor], ...]

    def current(self, states: Mapping[str, Tensor]) -> Tensor:
        """I at these states of the other banks; a bank that has none yet gives nothing."""
        current = self.fixed
        for source, matrix in self.below:
            if source in states:
                current = current + states[source] @ matrix.T
        for consumer, matrix, factor in self.above:
            if consumer in states:
                current = current + (states[consumer] @ matrix) * factor
        return current

    def settle(self, states: Mapping[str, Tensor]) -> Tensor:
        """The voltages that minimise the energy over this bank."""
        return (self.current(states) / self.total).clamp(self.lower, self.upper)


def nodes(circuit: Circuit, drives: Drives) -> tuple[Node, ...]:
    """The banks of a circuit, ready to be solved.

    Raises:
        InputError: naming the banks with a node that nothing connects to ground, a source or another node.
    """
    signed = [e.gain * (e.positive - e.negative) for e in circuit.edges]
    prepared = tuple(_node(b, circuit, drives, signed) for b in circuit.banks)
    floating = [b.label for b, node in zip(circuit.banks, prepared, strict=True) if bool((node.total <= 0).any())]
    if floating:
        raise InputError(
            Problem(f"bank {label}", "has a node without any conductance: its voltage is undefined", "Give it a leak.")
            for label in floating
        )
    return prepared


def _node(bank: Bank, circuit: Circuit, drives: Drives, signed: list[Tensor]) -> Node:
    names = {b.name for b in circuit.banks}
    total, fixed = leak(bank), drives.currents[bank.name]
    below, above = [], []
    for edge, matrix in zip(circuit.edges, signed, strict=True):
        if edge.target == bank.name:
            total = total + (edge.positive + edge.negative).sum(1)
            if edge.source in names:
                below.append((edge.source, matrix))
            else:
                fixed = fixed + drives.inputs[edge.source] @ matrix.T
        if edge.source == bank.name and edge.back is not None:
            total = total + edge.back * edge.gain * (edge.back_positive + edge.back_negative).sum(0)
            same = edge.back_positive is edge.positive and edge.back_negative is edge.negative
            back = matrix if same else edge.gain * (edge.back_positive - edge.back_negative)
            above.append((edge.target, back, edge.back / edge.gain))
    return Node(bank.name, total, *bank.bounds, fixed, tuple(below), tuple(above))


def solve(
    circuit: Circuit,
    inputs: Mapping[str, Tensor] | None = None,
    nudges: Mapping[str, Tensor] | None = None,
    tolerance: Tolerance = DEFAULT,
    start: Mapping[str, Tensor] | None = None,
) -> Equilibrium:
    """The equilibrium of a resistive circuit: states ``(batch, n)`` by bank, and how many sweeps it took.

    Args:
        circuit: with the physics ``"resistive"``.
        inputs: (batch, n) voltages by input; the circuit's one sample by default.
        nudges: (batch, n) currents drawn from the nodes of a bank; the circuit's by default.
        tolerance: when to stop; the residual is the largest relative change of a bank.
        start: (batch, n) by bank; without it the first sweep is a pass from the inputs up, without feedback.

    Raises:
        InputError: for drives that do not fit the circuit, another physics, or a floating node.
    """
    drives = Drives.for_circuit(circuit, inputs, nudges)
    return settle(circuit.block, nodes(circuit, drives), tolerance, start)


@torch.no_grad()
def settle(
    block: str, banks: tuple[Node, ...], tolerance: Tolerance, start: Mapping[str, Tensor] | None = None
) -> Equilibrium:
    """The same from prepared banks."""
    states: States = dict(start or {})
    if start is None:
        sweep_once(banks, states)

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        before = dict(states)
        sweep_once(banks, states)
        return {n: (s, s - before[n]) for n, s in states.items()}

    stop = tolerance.of(next(iter(states.values())).dtype)
    return Equilibrium(states, iterate(block, sweep, stop, tolerance.max_sweeps))


def sweep_once(banks: tuple[Node, ...], states: States) -> None:
    """One sweep, each bank with the newest voltages of the others."""
    for node in banks:
        s = node.settle(states)
        states[node.name] = s if s.dim() == 2 else s.expand(_batch(banks), -1)


def _batch(banks: tuple[Node, ...]) -> int:
    """The batch of the drives; 1 where none has one."""
    return max((node.fixed.shape[0] for node in banks if node.fixed.dim() == 2), default=1)
