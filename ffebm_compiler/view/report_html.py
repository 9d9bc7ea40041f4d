"""The report as a fragment of HTML, for notebooks: the same words as the text, with a real table."""

from __future__ import annotations

from html import escape

from .report_rows import ReportRows
from .report_text import HEADINGS, RIGHT, Notes, cells, headline, notes, verified

_STYLE = """<style>
.ffebm-report table { border-collapse: collapse; margin: 0.8em 0; }
.ffebm-report th, .ffebm-report td { padding: 0.25em 0.7em; text-align: left; vertical-align: top; }
.ffebm-report th, .ffebm-report td { border-bottom: 1px solid rgba(128,128,128,.3); }
.ffebm-report .number { text-align: right; font-variant-numeric: tabular-nums; }
.ffebm-report tr.digital td { opacity: 0.7; }
</style>"""


def html_report(report: ReportRows) -> str:
    parts = [
        f"<p>{'<br>'.join(map(escape, headline(report)))}</p>",
        _table(report),
        *map(_details, notes(report)),
        f"<p>{escape(verified(report))}</p>",
    ]
    return f'{_STYLE}<div class="ffebm-report">{"".join(parts)}</div>'


def _table(report: ReportRows) -> str:
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


def _details(subject: Notes) -> str:
    lines = "".join(f"<li><b>{escape(what)}</b>: {escape(text)}</li>" for what, text in subject.entries)
    return f"<details><summary>{escape(subject.title)}</summary><ul>{lines}</ul></details>"
