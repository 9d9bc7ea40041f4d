"""What became of each batch norm: held, on what statistics, or digital, and why."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..ir import Program
from ..passes import NO_STATISTICS, statistics_of
from .report_rows import ReportRows

_OWN_RULE = "by a rule of its own"


def held_statistics(program: Program, network: nn.Module) -> tuple[tuple[str, str], ...]:
    """Each held norm with what it is held at, as the network is now."""
    statistics: dict[str, str] = {}
    for block in program.energy_blocks:
        held = {o.label for o in block.held_norms}
        for term in (t for s in block.states for t in s.drive.terms if t.origin.label in held):
            known = statistics_of(term.operation, term.operands, network)
            statistics[term.origin.label] = _OWN_RULE if known is None else str(known)
    return tuple(statistics.items())


def norm_lines(report: ReportRows) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What became of norms, in words, each with the norms that it became of."""
    held: dict[str, list[str]] = {}
    for label, statistics in report.norm_statistics:
        held.setdefault(statistics, []).append(label)
    for statistics, labels in held.items():
        yield f"held: {statistics}; scale and shift train", tuple(labels)
    without = {label for _, label in report.reasons.get(NO_STATISTICS, ())}
    if without:
        yield NO_STATISTICS, tuple(n for n in report.trained_norms if n in without)
    others = tuple(n for n in report.trained_norms if n not in without)
    if others:
        yield "digital, training as ever", others
