"""The resistive circuit of a block: resistors, diodes, amplifiers (Kendall et al. 2020, arXiv 2006.01981).

    C ds_i/dt = -leak_i s_i + sum_k [ P_ik (A s_k - s_i) + N_ik (-A s_k - s_i) ] + drive_i - nudge_i
                + back_i sum_j [ P_ji (s_j - A s_i) - N_ji (s_j + A s_i) ],        lower <= s_i <= upper

One subcircuit for each kind of node (leak, capacitor, and a diode to each bound's reference), one for each array of
resistors, one for each layer's amplifier: it holds its two outputs at ``A v`` and ``-A v``, senses the current that
each gives away, and draws ``back`` times that current from v (returns it, for the negative output).

The diode. SPICE's own needs an emission coefficient of 1e-6 to come within 1e-5 of ideal, and then lives on its
convergence aids; XSPICE's ``sidiode`` is exact but needs code models. A behavioural conductance ``on`` times the leak,
for forward voltages only, is the same straight line as ``sidiode``, and off by (current / on): 1e-8 here. ``silicon``
puts a 1N4148 in its place.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..hardware.circuit import Bank, Circuit, Edge
from .layout import Layout
from .netlist import Subcircuit, instance, number

INFINITY = float("inf")
ON_CONDUCTANCE = 1e8
"""Of an ideal diode, in units of ``siemens``."""

DIODES = {
    "ideal": Subcircuit(
        "diode",
        f"An ideal diode: {ON_CONDUCTANCE:g}*siemens forward, an open circuit backward.",
        ("anode", "cathode"),
        (f"Bdiode anode cathode i={{{ON_CONDUCTANCE:g}*siemens}}*max(v(anode, cathode), 0)",),
    ),
    "silicon": Subcircuit(
        "diode",
        "A silicon signal diode with the parameters commonly given for a 1N4148.",
        ("anode", "cathode"),
        (
            "Ddiode anode cathode d1n4148",
            ".model d1n4148 d(is=2.52n rs=0.568 n=1.752 cjo=4p m=0.4 tt=20n bv=75 ibv=5u)",
        ),
    ),
}


def subcircuits(circuit: Circuit, layout: Layout, diodes: str) -> Iterator[Subcircuit]:
    if any(b.bounds != (-INFINITY, INFINITY) for b in circuit.banks):
        yield DIODES[diodes]
    for bank in circuit.banks:
        yield _node(bank, layout)
    for name, edge in zip(layout.edges, circuit.edges):
        yield _amplifier(name, edge)
        yield _array(name, edge)


def instances(circuit: Circuit, layout: Layout) -> Iterator[str]:
    for bank in circuit.banks:
        yield from _nodes(bank, layout)
    for name, edge in zip(layout.edges, circuit.edges):
        plus, minus = _lines(name, edge)
        yield from _amplifiers(name, edge, layout, plus, minus)
        yield instance(f"array_{name}", [*plus, *minus, *layout.outputs[edge.target]], f"array_{name}")


def input_node(layout: Layout, bank: str) -> tuple[str, ...]:
    """Where currents flow into a bank's nodes."""
    return layout.outputs[bank]


# --- nodes ------------------------------------------------------------------------------------------------


def _node(bank: Bank, layout: Layout) -> Subcircuit:
    lower, upper = bank.bounds
    start = min(max(0.0, lower), upper)
    return Subcircuit(
        f"node_{layout.banks[bank.name]}",
        f"A node of {bank.label} ({bank.potential.name}): its capacitor, its diodes (its leak stands beside it).",
        ("s",),
        (
            f"Cleak s 0 {{tau*siemens}} ic={{volts*{number(start)}}}",
            *_held_from("lower", lower, "Xlower lower s diode"),
            *_held_from("upper", upper, "Xupper s upper diode"),
        ),
    )


def _held_from(reference: str, bound: float, diode: str) -> list[str]:
    return [] if abs(bound) == INFINITY else [f"V{reference} {reference} 0 {{volts*{number(bound)}}}", diode]


def _nodes(bank: Bank, layout: Layout) -> Iterator[str]:
    name, leaks = layout.banks[bank.name], [] if bank.leak is None else bank.leak.tolist()
    for i, s in enumerate(layout.outputs[bank.name]):
        yield f"Xnode_{name}_{i} {s} node_{name}"
    for i, leak in enumerate(leaks):
        if leak > 0:
            yield f"Rleak_{name}_{i} {layout.outputs[bank.name][i]} 0 {{1/(siemens*{number(leak)})}}"


# --- layers -----------------------------------------------------------------------------------------------


def _amplifier(name: str, edge: Edge) -> Subcircuit:
    forward = ("Eplus p 0 v 0 {gain}", "Vplus p plus 0", "Eminus n 0 v 0 {-gain}", "Vminus n minus 0")
    backward = ("Fplus v 0 Vplus {back}", "Fminus 0 v Vminus {back}")
    return Subcircuit(
        f"amplifier_{name}",
        f"Drives the resistors of {edge.label}: voltage gain `gain` forward"
        + (", current gain `back` backward." if edge.back is not None else "; an input takes no current."),
        ("v", "plus", "minus"),
        (*forward, *(backward if edge.back is not None else ())),
        (f"gain={number(edge.gain)}", "back=0"),
    )


def _amplifiers(name: str, edge: Edge, layout: Layout, plus: list[str], minus: list[str]) -> Iterator[str]:
    for i, v in enumerate(layout.outputs[edge.source]):
        values = {} if edge.back is None else {"back": float(edge.back[i])}
        yield instance(f"amplifier_{name}_{i}", [v, plus[i], minus[i]], f"amplifier_{name}", values)


def _lines(name: str, edge: Edge) -> tuple[list[str], list[str]]:
    sources = range(edge.positive.shape[1])
    return [f"p_{name}_{k}" for k in sources], [f"n_{name}_{k}" for k in sources]


def _array(name: str, edge: Edge) -> Subcircuit:
    targets, sources = edge.positive.shape
    ports = [*(f"plus{k}" for k in range(sources)), *(f"minus{k}" for k in range(sources))]
    return Subcircuit(
        f"array_{name}",
        f"The resistors of {edge.label}, {targets} x {sources}, from the amplifiers' outputs to the nodes.",
        (*ports, *(f"out{i}" for i in range(targets))),
        (*_resistors("P", "plus", edge.positive), *_resistors("N", "minus", edge.negative)),
    )


def _resistors(letter: str, line: str, conductances: Tensor) -> Iterator[str]:
    for (i, k), g in zip(conductances.nonzero().tolist(), conductances[conductances != 0].tolist()):
        yield f"R{letter}{i}_{k} {line}{k} out{i} {{1/(siemens*{number(g)})}}"
