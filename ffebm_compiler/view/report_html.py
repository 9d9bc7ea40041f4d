"""The report as a fragment of HTML, for notebooks: the same words as the text, with a real table."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from .norms import norm_lines
from .report_text import HEADINGS, RIGHT, cells, certificates, grouped, headline, verified

if TYPE_CHECKING:
    from .report import Report

_STYLE = """<style>
.ffebm-report table { border-collapse: collapse; margin: 0.8em 0; }
.ffebm-report th, .ffebm-report td { padding: 0.25em 0.7em; text-align: left; vertical-align: top; }
.ffebm-report th, .ffebm-report td { border-bottom: 1px solid rgba(128,128,128,.3); }
.ffebm-report .number { text-align: right; font-variant-numeric: tabular-nums; }
.ffebm-report tr.digital td { opacity: 0.7; }
</style>"""


def html_report(report: Report) -> str:
    parts = [
        f"<p>{'<br>'.join(map(escape, headline(report)))}</p>",
        _table(report),
        _details("Certificates", ((f"{', '.join(names)}", verdict) for verdict, names in certificates(report).items())),
        _details(
            "Boundaries: why operations are digital",
            ((f"{reason or 'between blocks'} ({len(ops)})", grouped(ops)) for reason, ops in report.reasons.items()),
        ),
        _details("Batch norms", ((what, ", ".join(labels)) for what, labels in norm_lines(report))),
        _details("Shared parameters", ((name, f"read by {', '.join(readers)}") for name, readers in report.shared)),
        f"<p>{escape(verified(report))}</p>",
    ]
    return f'{_STYLE}<div class="ffebm-report">{"".join(parts)}</div>'


def _table(report: Report) -> str:
    head = "".join(_cell("th", i, h) for i, h in enumerate(HEADINGS))
    count = report.parameters
    body = [(type(r).__name__ == "DigitalRow", cells(r)) for r in report.rows]
    body.append((False, ("total", "", "", "", f"{count.analog:,}", f"{count.digital:,}", "", "")))
    rows = (
        f'<tr class="{"digital" if digital else "analog"}">'
        + "".join(_cell("td", i, c) for i, c in enumerate(row))
        + "</tr>"
        for digital, row in body
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(tag: str, column: int, text: str) -> str:
    return f"<{tag}{' class=number' if column in RIGHT else ''}>{escape(text)}</{tag}>"


def _details(title: str, entries: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<li><b>{escape(what)}</b>: {escape(text)}</li>" for what, text in entries)
    return f"<details><summary>{escape(title)}</summary><ul>{lines}</ul></details>" if lines else ""
