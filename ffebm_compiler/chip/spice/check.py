"""Compares ngspice's voltages with the emulator's: folders of netlists and their manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .folder import Entry, read_manifest
from .ngspice import SECONDS, find_ngspice, run_file
from .rawfile import Plot
from .solve import OPERATING_POINT, TRANSIENT, plot_named, ranges, settling_time, states_at, still_to_go, unrest

TOLERANCE = 1e-4
"""Relative: what the emulator's equilibria are held to."""

SETTLED = 1e-3
"""A transient that still moves by more than this part of a bank's range in its last tenth has not settled."""

EXPLAINED = 3.0
"""Nor has one whose difference to the expected states is at most so many times what it still has to go."""


@dataclass(frozen=True)
class Verdict:
    """One netlist against what was expected of it.

    Attributes:
        name: the netlist's file.
        operating_point: worst relative difference of ``.op`` to the expected states; None where one of both is missing.
        transient: the same of the end of ``.tran``.
        apart: worst relative difference between ``.op`` and the end of ``.tran``.
        settling_time: in seconds, to 1 %; None without a transient.
        settled: whether the transient came to rest.
        tolerance: the largest difference that is accepted.
    """

    name: str
    operating_point: float | None
    transient: float | None
    apart: float | None
    settling_time: float | None
    settled: bool
    tolerance: float

    @property
    def worst(self) -> float | None:
        """The end of the transient counts, if it has settled; otherwise the operating point."""
        if self.transient is not None and (self.settled or self.operating_point is None):
            return self.transient
        return self.operating_point

    @property
    def ok(self) -> bool:
        return self.worst is not None and self.worst <= self.tolerance

    @property
    def text(self) -> str:
        """One of a few words."""
        if self.worst is None:
            return "nothing to compare with"
        if not self.ok:
            return "differs" if self.settled else "differs; the transient has not settled"
        if not self.settled:
            return "ok; the transient has not settled"
        elsewhere = self.apart is not None and self.apart > self.tolerance
        return "ok; the operating point is another equilibrium" if elsewhere else "ok"


def difference(states: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Worst difference in each bank, relative to its largest expected value (see :func:`ranges`)."""
    return {
        name: float((states[name].flatten() - expected[name].flatten()).abs().max()) / size
        for name, size in ranges(expected).items()
    }


def check_netlists(folder: Path, tolerance: float = TOLERANCE, seconds: float = SECONDS) -> list[Verdict]:
    """Runs every netlist of a folder that :func:`write_netlists` wrote.

    Raises:
        InputError: the folder has no manifest, or one that is damaged.
        SimulatorError: ngspice is missing, too slow, or refuses a netlist.
    """
    find_ngspice()
    return [_check(folder, entry, tolerance, seconds) for entry in read_manifest(folder)]


def _check(folder: Path, entry: Entry, tolerance: float, seconds: float) -> Verdict:
    plots = run_file(folder / entry.file, entry.file, seconds)
    nodes = {b.name: b.nodes for b in entry.banks}
    expected = {b.name: b.expected for b in entry.banks if b.expected is not None}
    point, course = _last(plots, OPERATING_POINT, nodes, entry.volts), _course(plots, nodes, entry.volts)
    end = None if course is None else {n: v[-1] for n, v in course[1].items()}
    off = _worst(end, expected)
    return Verdict(
        name=entry.file,
        operating_point=_worst(point, expected),
        transient=off,
        apart=None if point is None or end is None else _worst(point, end),
        settling_time=None if course is None else settling_time(*course),
        settled=course is None or _has_settled(*course, off, tolerance),
        tolerance=tolerance,
    )


def _has_settled(times: Tensor, states: Mapping[str, Tensor], off: float | None, tolerance: float) -> bool:
    """Whether a transient rests at its end; one that is where it should be has settled far enough."""
    if unrest(times, states) > SETTLED:
        return False
    return off is None or off <= tolerance or off > EXPLAINED * still_to_go(times, states)


def _worst(states: Mapping[str, Tensor] | None, expected: Mapping[str, Tensor]) -> float | None:
    return None if states is None or not expected else max(difference(states, expected).values(), default=0.0)


def _last(
    plots: tuple[Plot, ...], name: str, nodes: Mapping[str, tuple[str, ...]], volts: float
) -> dict[str, Tensor] | None:
    if all(p.name != name for p in plots):
        return None
    return {n: v[-1] for n, v in states_at(plot_named(plots, name), nodes, volts).items()}


def _course(
    plots: tuple[Plot, ...], nodes: Mapping[str, tuple[str, ...]], volts: float
) -> tuple[Tensor, dict[str, Tensor]] | None:
    if all(p.name != TRANSIENT for p in plots):
        return None
    plot = plot_named(plots, TRANSIENT)
    return plot.column("time"), states_at(plot, nodes, volts)
