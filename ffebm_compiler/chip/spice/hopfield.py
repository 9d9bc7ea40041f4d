"""The Hopfield circuit of a block: transconductances into leaky neurons (Hopfield 1984, PNAS 81; Kendall et al. 2020).

    tau du_i/dt = -u_i + sum_k (P_ik - N_ik) s_k + drive_i - nudge_i + reverse_i sum_j (Pb_ji - Nb_ji) s_j
    s_i = clip(sigma(gain_i (u_i + offset_i)), -limit, limit)

One subcircuit for each kind of neuron (a resistor 1/siemens and a capacitor tau*siemens to ground, a behavioural
output), one for each array in each direction (a controlled current source for each pair of devices, whose two
conductances stand in its value as a difference), one for the amplifier that the feedback into a neuron passes.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..hardware.circuit import Bank, Circuit, Edge
from .activations import clipped, expression
from .layout import Layout
from .netlist import Subcircuit, instance, number

_AMPLIFIER = Subcircuit(
    "reverse_amplifier",
    "The amplifier that feedback passes: the current into `in`, times `gain` (a pure number), flows out of `out`.",
    ("in", "out"),
    ("Vsense in 0 0", "Fout 0 out Vsense {gain}"),
    ("gain=1",),
)


def subcircuits(circuit: Circuit, layout: Layout) -> Iterator[Subcircuit]:
    for bank in circuit.banks:
        yield _neuron(bank, layout)
    if any(e.reverse is not None for e in circuit.edges):
        yield _AMPLIFIER
    for name, edge in zip(layout.edges, circuit.edges):
        yield _array(name, edge)
        if edge.reverse is not None:
            yield _array_backwards(name, edge)


def instances(circuit: Circuit, layout: Layout) -> Iterator[str]:
    for bank in circuit.banks:
        yield from _neurons(bank, layout)
    for name, edge in zip(layout.edges, circuit.edges):
        sources, targets = layout.outputs[edge.source], layout.potentials[edge.target]
        yield instance(f"array_{name}", [*sources, *targets], f"array_{name}")
        if edge.reverse is not None:
            yield from _feedback(name, edge, layout)


def input_node(layout: Layout, bank: str) -> tuple[str, ...]:
    """Where currents flow into a bank's neurons."""
    return layout.potentials[bank]


# --- neurons ----------------------------------------------------------------------------------------------


def _neuron(bank: Bank, layout: Layout) -> Subcircuit:
    sigma = expression(bank.potential, "{gain}*(v(u)+{offset})/{volts}")
    assert sigma is not None
    output = clipped(sigma, -bank.limit, bank.limit)
    return Subcircuit(
        f"neuron_{layout.banks[bank.name]}",
        f"A neuron of {bank.label} ({bank.potential.name}): leaky node u, output s. offset in V, gain a pure number.",
        ("u", "s"),
        ("Rleak u 0 {1/siemens}", "Cleak u 0 {tau*siemens} ic=0", f"Bout s 0 v={{volts}}*{output}"),
        ("offset=0", "gain=1"),
    )


def _neurons(bank: Bank, layout: Layout) -> Iterator[str]:
    name = layout.banks[bank.name]
    for i, (u, s) in enumerate(zip(layout.potentials[bank.name], layout.outputs[bank.name])):
        offset, gain = float(bank.offset[i]), float(bank.gain[i])
        values = ([f"offset={{volts*{number(offset)}}}"] if offset else []) + (
            [f"gain={number(gain)}"] if gain != 1 else []
        )
        yield " ".join([f"Xneuron_{name}_{i}", u, s, f"neuron_{name}", *values])


# --- arrays -----------------------------------------------------------------------------------------------


def _array(name: str, edge: Edge) -> Subcircuit:
    targets, sources = edge.positive.shape
    return Subcircuit(
        f"array_{name}",
        f"The array of {edge.label}, {targets} x {sources}: voltages of its inputs to currents into its outputs.\n"
        f"Each source is one pair of devices, siemens*(positive - negative).",
        (*(f"in{k}" for k in range(sources)), *(f"out{i}" for i in range(targets))),
        tuple(_pairs(edge.positive, edge.negative)),
    )


def _array_backwards(name: str, edge: Edge) -> Subcircuit:
    targets, sources = edge.positive.shape
    same = edge.back_positive is edge.positive and edge.back_negative is edge.negative
    return Subcircuit(
        f"feedback_{name}",
        f"The array of {edge.label} read the other way: {'the same devices' if same else 'a second array'}.",
        (*(f"in{k}" for k in range(targets)), *(f"out{i}" for i in range(sources))),
        tuple(_pairs(edge.back_positive.T, edge.back_negative.T)),
    )


def _pairs(positive: Tensor, negative: Tensor) -> Iterator[str]:
    """A controlled source for each pair that is there: neither of its devices is where a kernel does not reach."""
    present = (positive != 0) | (negative != 0)
    conductances = zip(positive[present].tolist(), negative[present].tolist())
    for (i, k), (p, n) in zip(present.nonzero().tolist(), conductances):
        yield f"G{i}_{k} 0 out{i} in{k} 0 {{siemens*({number(p)}-{number(n)})}}"


def _feedback(name: str, edge: Edge, layout: Layout) -> Iterator[str]:
    assert edge.reverse is not None
    lines = [f"b_{name}_{i}" for i in range(edge.reverse.numel())]
    yield instance(f"feedback_{name}", [*layout.outputs[edge.target], *lines], f"feedback_{name}")
    for i, (line, u) in enumerate(zip(lines, layout.potentials[edge.source])):
        yield instance(f"reverse_{name}_{i}", [line, u], _AMPLIFIER.name, {"gain": float(edge.reverse[i])})
