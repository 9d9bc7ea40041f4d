"""A circuit's equilibrium and its transient, from ngspice: states in units of ``volts``, by bank."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import InputError
from ..hardware.circuit import Circuit
from .layout import lay_out
from .ngspice import SECONDS, run_netlist
from .rawfile import Plot
from .testbench import Bench, netlist

TINY = 1e-30
OPERATING_POINT, TRANSIENT = "Operating Point", "Transient Analysis"


SLOWEST = 0.95
"""No mode is taken to decay by less in a tenth of a transient: what moves so little is rounding as often as a mode."""


def solve_op(circuit: Circuit, diodes: str = "ideal", seconds: float = SECONDS) -> dict[str, Tensor]:
    """The equilibrium that ngspice's ``.op`` finds, (n,) a bank; with strong feedback it may be an unstable one.

    Raises:
        InputError: the circuit can't be written.
        SimulatorError: ngspice is missing, or fails.
    """
    plots = _run(circuit, Bench(transient=False, diodes=diodes), seconds)
    return {name: values[-1] for name, values in _states(circuit, plots, OPERATING_POINT).items()}


def solve_tran(
    circuit: Circuit,
    duration: float | None = None,
    step: float | None = None,
    diodes: str = "ideal",
    seconds: float = SECONDS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The transient from u = 0, every input applied at t = 0: times (t,) in seconds, states (t, n) a bank.

    Args:
        duration: in seconds; 30 time constants by default.
        step: the longest step; ngspice takes shorter ones where it needs them. A twentieth of a time constant by
            default.
    """
    plots = _run(circuit, Bench(operating_point=False, duration=duration, step=step, diodes=diodes), seconds)
    return times_of(plots), _states(circuit, plots, TRANSIENT)


def settling_time(
    times: Tensor, states: Mapping[str, Tensor], tolerance: float = 0.01, final: Mapping[str, Tensor] | None = None
) -> float:
    """The first time from which every state stays within ``tolerance`` of its final value; inf if it never does.

    The tolerance is relative to the largest final value of the state's bank (see :func:`ranges`); between samples
    states are taken as straight lines.

    Args:
        times: (t,).
        states: (t, n) a bank.
        final: (n,) a bank; the last states by default, which is no test of whether the circuit has settled: see
            :func:`unrest`.
    """
    ends = {name: (final or {}).get(name, values[-1]).flatten() for name, values in states.items()}
    bands = {name: tolerance * size for name, size in ranges(ends).items()}
    return max((_settled(times, states[n], ends[n], bands[n]) for n in bands), default=0.0)


def unrest(times: Tensor, states: Mapping[str, Tensor]) -> float:
    """How far the states still move in the last tenth of the transient, relative to the range of each one's bank."""
    late = times >= times[0] + 0.9 * (times[-1] - times[0])
    moves = {name: float((v[late].amax(0) - v[late].amin(0)).max()) for name, v in states.items() if v.numel()}
    return max((moves[n] / size for n, size in ranges({n: v[-1] for n, v in states.items()}).items()), default=0.0)


def still_to_go(times: Tensor, states: Mapping[str, Tensor]) -> float:
    """How far the states are from where they tend to, relative to their bank's range, if modes decay as now.

    A mode that moves by m in the last tenth of the transient and by m / q in the one before has ``m q / (1 - q)``
    before it.
    """
    start, end = float(times[0]), float(times[-1])
    instants = [int((times >= start + part * (end - start)).nonzero()[0]) for part in (0.8, 0.9)]
    farthest = 0.0
    for name, size in ranges({n: v[-1] for n, v in states.items()}).items():
        before, then, now = (states[name][i] for i in (*instants, -1))
        earlier, moved = (float((a - b).abs().max()) for a, b in ((then, before), (now, then)))
        q = min(moved / max(earlier, TINY), SLOWEST)
        farthest = max(farthest, moved * q / (1 - q) / size)
    return farthest


def ranges(states: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest magnitude of each bank that has neurons, at least a thousandth of the block's: a bank may be off."""
    peaks = {name: float(s.abs().max()) for name, s in states.items() if s.numel()}
    floor = max(1e-3 * max(peaks.values(), default=0.0), TINY)
    return {name: max(peak, floor) for name, peak in peaks.items()}


def _settled(times: Tensor, values: Tensor, final: Tensor, band: float) -> float:
    excess = (values - final).abs().amax(dim=1) - band  # (t,)
    outside = (excess > 0).nonzero()
    if not len(outside):
        return float(times[0])
    last = int(outside[-1])
    if last + 1 == len(excess):
        return float("inf")
    before, after = float(excess[last]), float(excess[last + 1])
    return float(times[last] + (times[last + 1] - times[last]) * before / (before - after))


def times_of(plots: tuple[Plot, ...]) -> Tensor:
    return plot_named(plots, TRANSIENT).column("time")


def plot_named(plots: tuple[Plot, ...], name: str) -> Plot:
    for plot in plots:
        if plot.name == name:
            return plot
    raise InputError.at("ngspice's result", f"has no {name}", "Ask for that analysis in the netlist.")


def states_at(plot: Plot, nodes: Mapping[str, tuple[str, ...]], volts: float) -> dict[str, Tensor]:
    """(points, n) a bank, in units of ``volts``."""
    column = {name: k for k, name in enumerate(plot.variables)}
    missing = [n for names in nodes.values() for n in names if f"v({n})" not in column]
    if missing:
        raise InputError.at(
            "ngspice's result", f"lacks the node {missing[0]}", "Keep the netlist's .save lines as exported."
        )
    return {bank: plot.values[:, [column[f"v({n})"] for n in names]] / volts for bank, names in nodes.items()}


def _run(circuit: Circuit, bench: Bench, seconds: float) -> tuple[Plot, ...]:
    return run_netlist(netlist(circuit, bench), circuit.block, seconds)


def _states(circuit: Circuit, plots: tuple[Plot, ...], name: str) -> dict[str, Tensor]:
    outputs = lay_out(circuit).outputs
    nodes = {bank.name: outputs[bank.name] for bank in circuit.banks}
    return states_at(plot_named(plots, name), nodes, circuit.volts)
