"""The report as plain text: one table, then what it can't hold."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from ..tables import aligned
from .norms import norm_lines
from .report_rows import BlockRow, DigitalRow, ReportRows

HEADINGS = ("block", "layers", "states", "couplings", "parameters analog", "digital", "loop gain", "certificate")
WIDTHS = (10, 26, 26, 9, 10, 9, 10, 24)
WIDEST = 44
"""Up to this a column grows, so that no layer's name is broken in it."""
RIGHT = (3, 4, 5, 6)
PAGE = 118


def text_report(report: ReportRows) -> str:
    texts = ["\n".join(headline(report)), table(report), *map(str, notes(report))]
    if not report.reasons:
        texts.append("Boundaries: none, nothing is digital.")
    return "\n\n".join([*texts, verified(report)] if report.blocks else texts)


def headline(report: ReportRows) -> Iterator[str]:
    """What it is, in two or three sentences."""
    layers = sum(len(b.layers) for b in report.blocks)
    yield (
        f"{report.model}: {_plural(len(report.blocks), 'energy-based block')} "
        f"with {_plural(layers, 'weighted layer')}, "
        f"{_plural(len(report.digital), 'digital part')}; {report.mode} mode, traced by {report.tracer}."
    )
    count = report.parameters
    total = count.analog + count.digital
    share = f" ({count.analog / total:.2%})" if total else ""
    notes = [
        f"{count.both:,} of them also read by digital parts" if count.both else "",
        f"{count.unread:,} read by nothing" if count.unread else "",
    ]
    note = f" ({', '.join(n for n in notes if n)})" if any(notes) else ""
    yield f"Parameters: {count.analog:,} analog{share}, {count.digital:,} digital{note}."
    yield (
        "Feedback: unit reverse gains, as in the paper."
        if report.loop_gain is None
        else f"Feedback: loop gains of at most {report.loop_gain:g}."
    )


def _plural(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


# --- the table --------------------------------------------------------------------------------------------


def table(report: ReportRows) -> str:
    """A line a block, with the digital parts between them."""
    count = report.parameters
    total = ("total", "", "", "", f"{count.analog:,}", f"{count.digital:,}", "", "")
    rows = [cells(row) for row in report.rows]
    widths = _widths([*rows, total])
    rule = "  ".join("─" * w for w in widths)
    lines = [_wrapped(HEADINGS, widths), rule, *(_wrapped(row, widths) for row in rows), rule, _wrapped(total, widths)]
    return "\n".join(lines)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    longest = [max(len(word) for row in rows for word in (row[i].split() or [""])) for i in range(len(WIDTHS))]
    return [min(max(usual, word), max(usual, WIDEST)) for usual, word in zip(WIDTHS, longest, strict=True)]


def cells(row: BlockRow | DigitalRow) -> tuple[str, ...]:
    """The table's cells for a row."""
    if hasattr(row, "operations"):
        labels = [label for label, _, _ in row.operations]
        told = ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} operations"
        return row.name, told, "", "", "", f"{row.parameters:,}", "", ""
    states = listed([f"{label} ({potential})" for label, potential in row.states])
    couplings, parameters = str(len(row.couplings)), f"{row.parameters:,}"
    verdict = row.certificate.split(":")[0] if row.couplings else "no feedback"  # its reason stands below the table
    return row.name, listed(row.layers), states, couplings, parameters, "", _loop_gain(row), verdict


def listed(names: Sequence[str], most: int = 6) -> str:
    """The names, or of many the first and the last."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:3])}, …, {names[-1]} ({len(names)})"


def _loop_gain(row: BlockRow) -> str:
    if not row.couplings:
        return "–"
    return "?" if row.loop_gain is None else f"{row.loop_gain:.3g}"


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> str:
    """The lines of one row, long cells broken."""
    columns = [textwrap.wrap(cell, w, break_on_hyphens=False) for cell, w in zip(row, widths, strict=True)]
    return aligned(zip_longest(*columns, fillvalue=""), RIGHT, widths)


# --- what the table can't hold ----------------------------------------------------------------------------


def paragraph(text: str, indent: str = "  ") -> str:
    wrapper = textwrap.TextWrapper(PAGE, indent, indent + "  ", break_on_hyphens=False, break_long_words=False)
    return wrapper.fill(text)


def grouped(pairs: Iterable[tuple[str, str]]) -> str:
    """``digital1: bn1, relu; digital2: fc``."""
    parts: dict[str, list[str]] = {}
    for part, label in pairs:
        parts.setdefault(part, []).append(label)
    return "; ".join(f"{part}: {', '.join(labels)}" for part, labels in parts.items())


class Notes(NamedTuple):
    """What the table can't hold on one subject: entries of (what, text), the text below or beside what it is about."""

    title: str
    entries: list[tuple[str, str]]
    below: bool = False

    def __str__(self) -> str:
        lines = [self.title]
        for what, text in self.entries:
            lines += [paragraph(what), paragraph(text, "      ")] if self.below else [paragraph(f"{what}: {text}")]
        return "\n".join(lines)


def notes(report: ReportRows) -> Iterator[Notes]:
    """The subjects on which there is anything to say."""
    verdicts: dict[str, list[str]] = {}  # of blocks with feedback; equal ones together
    for block in report.blocks:
        if block.couplings and ":" in block.certificate:
            verdicts.setdefault(block.certificate, []).append(block.name)
    if verdicts:
        yield Notes("Certificates", [(", ".join(names), verdict) for verdict, names in verdicts.items()])
    if reasons := [
        (f"{reason or 'between blocks'} ({len(ops)})", grouped(ops)) for reason, ops in report.reasons.items()
    ]:
        yield Notes("Boundaries: why operations are digital", reasons, below=True)
    if norms := [(f"{what} ({len(labels)})", ", ".join(labels)) for what, labels in norm_lines(report)]:
        yield Notes("Batch norms", norms)
    if report.shared:
        yield Notes("Shared parameters", [(name, f"read by {', '.join(readers)}") for name, readers in report.shared])


def verified(report: ReportRows) -> str:
    """Whether the energies were checked against the solver's equations."""
    checks = {b.name: b.verified for b in report.blocks if b.verified is not None}
    if not checks:
        return "Energies: not verified (no example input was given)."
    worst = max(max(c["stationarity"], c["gradient"], c["increments"]) for c in checks.values())
    blocks = _plural(len(report.blocks), "block")
    count = f"{len(checks)} of {blocks}"
    return f"Energies: verified for {count}, on the code that runs them, worst relative residual {worst:.1e}."
