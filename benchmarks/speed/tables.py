"""The tables of README.md and docs/measurements.md, between markers, from the results that are committed.

A table stands between ``<!-- benchmarks: NAME -->`` and ``<!-- end -->``, and NAME says which.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed import report
from benchmarks.speed.inference import WAYS
from benchmarks.speed.result import ROOT, read
from examples import records
from ffebm_compiler.tables import markdown

PAGES = (ROOT / "README.md", ROOT / "docs" / "measurements.md")
MARKED = re.compile(r"(<!-- benchmarks: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Documents = Mapping[str, Mapping[str, Any]]
Row = Mapping[str, Any]


def written(text: str, folder: Path) -> str:
    """A page with its tables as the results in a folder have them; one without its results stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        name = match[2]
        table = TABLES[name]
        found = {s: d for s in table.suites if (d := read(folder, s)) is not None}
        return match[1] + table.make(found) + match[4] if len(found) == len(table.suites) else match[0]

    return MARKED.sub(replaced, text)


def is_current(page: Path, folder: Path) -> bool:
    text = page.read_text(encoding="utf-8")
    return written(text, folder) == text


def write(page: Path, folder: Path) -> Path:
    return records.write_text(page, written(page.read_text(encoding="utf-8"), folder))


# --- rows --------------------------------------------------------------------------------------------------


def rows_of(document: Mapping[str, Any], **wanted: str) -> list[Row]:
    return [r for r in document["rows"] if all(r[k] == v for k, v in wanted.items())]


def key(row: Row) -> tuple[str, str, str]:
    return row["network"], row["blocks"], row["feedback"]


# --- README ------------------------------------------------------------------------------------------------


def steps_and_inferences(found: Documents) -> str:
    """Blocks of 2 at the default loop gain."""
    inference = {(key(r), r["way"]): report.times(r) for r in found["inference"]["rows"]}
    rows = [
        (
            r["network"],
            report.times(r),
            report.cosine(r["worst cosine"]),
            *(inference.get((key(r), way), "") for way in WAYS),
        )
        for r in rows_of(found["step"], blocks="2")
        if r["feedback"] != "unit"
    ]
    head = (
        "network, blocks of 2",
        "training step, times backprop",
        "worst cosine of a gradient",
        "inference, times feedforward",
        *(f"with `{way}`" for way in list(WAYS)[1:]),
    )
    return markdown([head, *rows]) + f"\n{report.conditions(found['step'])}.\n"


def against_others(found: Documents) -> str:
    """The paper's networks: every way's ratio, and the relative error of its gradient."""
    document = found["schedules"]
    ways = list(dict.fromkeys(r["way"] for r in document["rows"]))
    cells = {(key(r), r["way"]): f"{r['ratio']:.3g} ({r['error']:.0e})" for r in document["rows"]}
    networks = list(dict.fromkeys(key(r) for r in document["rows"]))
    rows = [(*n, *(cells.get((n, way), "") for way in ways)) for n in networks]
    return markdown([("network", "blocks", "feedback", *ways), *rows])


def peaks(found: Documents) -> str:
    """Splitting and memory, in two sentences."""
    ours = [r for r in found["memory"]["rows"] if r["way"] == "BP-EP"]
    recorded = [r for r in found["memory"]["rows"] if r["way"] == "recorded"]
    split = {key(r): r["ratio"] for r in found["splitting"]["rows"]}
    one, other = (split.get((f"splitting, L = {d}", s, "unit")) for d, s in (("6", "6"), ("12", "4")))
    lines = [
        f"Peak memory of a training step at {_listed(r['sweeps'] for r in ours)} sweeps: "
        f"{_listed(format(r['ratio'], '.2f') for r in ours)} times backprop's"
        f" (recorded, {_listed(r['sweeps'] for r in recorded)} sweeps: "
        f"{_listed(format(r['ratio'], '.1f') for r in recorded)})."
    ]
    if one and other:
        lines.append(
            f"At unit feedback one block of 6 takes {one:.2g} times the time of blocks of 2 (L = 6), blocks of 4 "
            f"take {other:.2g} times (L = 12)."
        )
    return textwrap.fill(" ".join(lines), 120, break_on_hyphens=False) + "\n"


def _listed(values: Iterable[Any]) -> str:
    return " / ".join(map(str, values))


# --- docs/measurements.md ----------------------------------------------------------------------------------


def whole(suite: str) -> Callable[[Documents], str]:
    """Every row and column of a suite, its notes and conditions."""

    def make(found: Documents) -> str:
        document = found[suite]
        columns = list(dict.fromkeys(k for r in document["rows"] for k in r if k not in ("lower", "upper")))
        rows = [[_cell(r, c) for c in columns] for r in document["rows"]]
        notes = " ".join([*document["notes"], f"{report.conditions(document)}."])
        return f"{markdown([columns, *rows])}\n{textwrap.fill(notes, 120, break_on_hyphens=False)}\n"

    return make


def _cell(row: Row, column: str) -> str:
    if column == "ratio" and "lower" in row:
        return report.times(row)
    value = row.get(column, "")
    return "" if isinstance(value, (list, dict)) else report.cell(column, value)


class Table:
    """A table, and the suites that it needs."""

    def __init__(self, make: Callable[[Documents], str], *suites: str):
        self.make, self.suites = make, suites


TABLES = {
    "steps": Table(steps_and_inferences, "step", "inference"),
    "ways": Table(against_others, "schedules"),
    "peaks": Table(peaks, "memory", "splitting"),
    **{
        name: Table(whole(name), name)
        for name in ("step", "schedules", "splitting", "inference", "memory", "compiling")
    },
}
