"""Tables of text cells, head first: aligned for a terminal, as Markdown and as CSV, from the same rows."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

Row = Sequence[str]


def aligned(rows: Iterable[Row], right: Collection[int] = (), widths: Sequence[int] | None = None) -> str:
    """One line a row, columns two blanks apart.

    Args:
        right: the columns that are aligned to the right, as numbers are.
        widths: of the columns, in terminal cells; those of the longest cells by default.
    """
    table = [list(row) for row in rows]
    widths = widths or [max(map(terminal_width, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(_padded(row, right, widths)).rstrip() for row in table)


def _padded(row: Row, right: Collection[int], widths: Sequence[int]) -> list[str]:
    fills = [" " * (width - terminal_width(cell)) for cell, width in zip(row, widths, strict=True)]
    return [fill + cell if i in right else cell + fill for i, (cell, fill) in enumerate(zip(row, fills, strict=True))]


def terminal_width(text: str) -> int:
    """In terminal cells, of which East Asian characters take two."""
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def markdown(rows: Iterable[Row]) -> str:
    """A Markdown table, with a line break at its end."""
    head, *body = rows
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *body))


def as_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values, a line a row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
