"""The whole netlist of a block: its circuit, its stimulus, its analyses and its measurements.

.op     the equilibrium; it may be an unstable one, or one of several
.tran   from u = 0 at t = 0, with every input, drive and nudge applied from then on: where the circuit really goes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import OptionError, Problem
from ..hardware.circuit import Bank, Circuit, Edge
from . import hopfield, resistive
from .layout import Layout, lay_out
from .legality import check_circuit
from .netlist import comment, number

MAX_DEVICES = 500_000
MEASUREMENTS = 99
DURATION, STEPS = 30.0, 20
"""Of the transient: in time constants, and the fewest steps to one of them."""


@dataclass(frozen=True)
class Bench:
    """What a netlist simulates.

    Attributes:
        operating_point: whether to look for the equilibrium (``.op``).
        transient: whether to simulate the settling (``.tran``).
        duration: of the transient, in seconds; None is 30 time constants.
        step: the longest step of the transient, in seconds; None is a twentieth of a time constant.
        diodes: ``"ideal"`` or ``"silicon"`` (a 1N4148), for resistive circuits.
        max_devices: a larger circuit is refused.

    Raises:
        OptionError: with every field that can't be used.
    """

    operating_point: bool = True
    transient: bool = True
    duration: float | None = None
    step: float | None = None
    diodes: str = "ideal"
    max_devices: int = MAX_DEVICES

    def __post_init__(self) -> None:
        problems = [
            Problem(f"option {name}", f"is {value!r}", "Give a positive number of seconds, or None.")
            for name, value in (("duration", self.duration), ("step", self.step))
            if value is not None and not 0 < value < float("inf")
        ]
        if self.diodes not in resistive.DIODES:
            problems.append(
                Problem("option diodes", f"is {self.diodes!r}", f"Give one of {', '.join(resistive.DIODES)}.")
            )
        if not (self.operating_point or self.transient):
            problems.append(Problem("options operating_point, transient", "are both off", "Simulate at least one."))
        OptionError.raise_if(problems)

    def times(self, circuit: Circuit) -> tuple[float, float]:
        """(duration, longest step) in seconds."""
        tau = circuit.time_constant
        return self.duration or DURATION * tau, self.step or tau / STEPS


def netlist(circuit: Circuit, bench: Bench | None = None, expected: Mapping[str, Tensor] | None = None) -> str:
    """The netlist of a circuit.

    Args:
        expected: the states that it should settle at, by bank, in units of ``volts``: the measurements of the settling
            time need them.

    Raises:
        InputError: the circuit can't be written, with every reason.
    """
    bench = bench or Bench()
    check_circuit(circuit, bench.max_devices)
    layout = lay_out(circuit)
    return "\n".join(
        [
            *_header(circuit, layout),
            "",
            *_body(circuit, layout, bench),
            *_analyses(circuit, layout, bench, expected),
            ".end",
            "",
        ]
    )


# --- the parts, in order ----------------------------------------------------------------------------------


def _header(circuit: Circuit, layout: Layout) -> Iterator[str]:
    yield comment(f"{circuit.block}: a {circuit.physics} circuit, written by ffebm_compiler".replace("\n", " "))
    about = ["", "Run it with    ngspice -b FILE", "", "nodes                             values"]
    about += [_nodes(layout.outputs[n], circuit.input_labels.get(n, n), x.shape) for n, x in circuit.inputs.items()]
    for bank in circuit.banks:
        what = f"{bank.label} ({bank.potential.name}, layer weight {bank.layer_weight:g})"
        about.append(_nodes(layout.outputs[bank.name], what, bank.shape))
    about += ["", "arrays, outputs x inputs"]
    about += [f"  {e.label}: {e.positive.shape[0]} x {e.positive.shape[1]}, {_amplified(e)}" for e in circuit.edges]
    yield comment("\n".join(about))


def _nodes(nodes: tuple[str, ...], what: str, shape: Sequence[int]) -> str:
    span = f"{nodes[0]} .. {nodes[-1]}" if nodes else "none"
    return f"  {span:30}  {what}, {' x '.join(map(str, shape))}"


def _amplified(edge: Edge) -> str:
    """Its gains, which may have errors, by their mean."""
    gains = edge.reverse if edge.back is None else edge.back
    backward = "no feedback" if gains is None else f"feedback times {float(gains.mean()):.4g}"
    return backward if edge.gain == 1 else f"drive times {edge.gain:.4g}, {backward}"


def _body(circuit: Circuit, layout: Layout, bench: Bench) -> Iterator[str]:
    yield f".param siemens={number(circuit.siemens)}   ; conductance of a weight of 1, in S"
    yield f".param volts={number(circuit.volts)}   ; voltage of a value of 1, in V"
    yield f".param tau={number(circuit.time_constant)}   ; R C of a neuron, in s"
    physics = hopfield if circuit.physics == "hopfield" else resistive
    parts = (
        hopfield.subcircuits(circuit, layout)
        if circuit.physics == "hopfield"
        else resistive.subcircuits(circuit, layout, bench.diodes)
    )
    for part in parts:
        yield f"\n{part}"
    yield "\n* --- the circuit ---"
    yield from physics.instances(circuit, layout)
    yield "\n* --- stimulus: inputs (V), drives and nudges (A) ---"
    yield from _stimulus(circuit, layout, {b.name: physics.input_node(layout, b.name) for b in circuit.banks})


def _stimulus(circuit: Circuit, layout: Layout, entries: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for name, x in circuit.inputs.items():
        for node, value in zip(layout.outputs[name], x.tolist()):
            yield f"V{node} {node} 0 {{volts*({number(value)})}}"
    for bank in circuit.banks:
        name, nodes = layout.banks[bank.name], entries[bank.name]
        for i, node in enumerate(nodes):
            yield from _current(f"Idrive_{name}_{i} 0 {node}", float(bank.drive[i]))
            yield from _current(f"Inudge_{name}_{i} {node} 0", float(bank.nudge[i]))


def _current(source: str, value: float) -> Iterator[str]:
    if value != 0:
        yield f"{source} {{siemens*volts*({number(value)})}}"


def _analyses(circuit: Circuit, layout: Layout, bench: Bench, expected: Mapping[str, Tensor] | None) -> Iterator[str]:
    yield "\n* --- analyses ---"
    yield from _tolerances(circuit)
    outputs = [node for bank in circuit.banks for node in layout.outputs[bank.name]]
    for node in outputs:
        yield f".save v({node})"
    if bench.operating_point:
        yield ".op"
    if bench.transient:
        duration, step = bench.times(circuit)
        yield f".tran {number(step)} {number(duration)} 0 {number(step)} uic"
        yield from _measurements(circuit, layout, expected or {})


def _tolerances(circuit: Circuit) -> Iterator[str]:
    """ngspice's defaults (1 uV, 1 pA, 1e-12 S) are not small against this circuit: they are scaled to it.

    The current tolerance stays above the rounding of a voltage times the conductance of an ideal diode: below it
    Newton's iteration never counts as converged, and the transient stalls.
    """
    volt, ampere = 1e-9 * circuit.volts, 1e-6 * circuit.siemens * circuit.volts
    charge = 1e-7 * circuit.siemens * circuit.volts * circuit.time_constant
    yield f".options reltol=1e-6 vntol={number(volt)} abstol={number(ampere)} chgtol={number(charge)}"
    yield f".options gmin={number(1e-12 * circuit.siemens)} method=gear itl1=1000 itl4=100"


def _measurements(circuit: Circuit, layout: Layout, expected: Mapping[str, Tensor]) -> Iterator[str]:
    """When each state comes within 1 % of its bank's range of its expected value, for the last time; outputs first.

    ngspice evaluates them only when it writes no raw file, and allows 99 of them.
    """
    targets = [t for bank in reversed(circuit.banks) if bank.name in expected for t in _targets(bank, layout, expected)]
    if len(targets) > MEASUREMENTS:
        yield comment(f"The settling of {MEASUREMENTS} of {len(targets)} states: ngspice allows no more measurements.")
    for node, value, band in targets[:MEASUREMENTS]:
        far = f"abs(v({node}) - ({number(circuit.volts * value)}))"
        yield f".meas tran settled_{node} when par('{far}')={number(circuit.volts * band)} fall=last"


def _targets(bank: Bank, layout: Layout, expected: Mapping[str, Tensor]) -> list[tuple[str, float, float]]:
    """(node, final value, band around it) of each state of a bank that is not all off."""
    final = expected[bank.name].double().flatten()
    band = 0.01 * float(final.abs().max()) if final.numel() else 0.0
    return [(n, v, band) for n, v in zip(layout.outputs[bank.name], final.tolist())] if band > 0 else []
