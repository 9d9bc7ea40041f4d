"""Tables as text, Markdown and CSV, from the same rows."""

from __future__ import annotations

from ffebm_compiler.tables import aligned, as_csv, markdown

ROWS = [("name", "value"), ("層", "1.5"), ("longer", "-20")]


def test_columns_line_up_in_terminal_cells() -> None:
    assert aligned(ROWS, right=[1]).splitlines() == ["name    value", "層        1.5", "longer    -20"]


def test_given_widths_are_kept() -> None:
    assert aligned([("a", "b")], widths=(3, 2)) == "a    b"


def test_no_rows_are_no_text() -> None:
    assert aligned([]) == ""


def test_markdown_has_a_rule_below_its_head() -> None:
    assert markdown(ROWS) == "| name | value |\n| --- | --- |\n| 層 | 1.5 |\n| longer | -20 |\n"


def test_csv_quotes_what_needs_it() -> None:
    assert as_csv([("a", "b"), (1, 'x,"y"')]) == 'a,b\n1,"x,""y"""\n'
