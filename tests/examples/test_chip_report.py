"""The report on a chip: the same sections as text and as one page that needs nothing else."""

from __future__ import annotations

import base64
from pathlib import Path

from examples import chip_report as report


def sections() -> list[report.Section]:
    rows = [{"layer": "<conv>", "error": "1.5"}, {"layer": "fc & more", "error": "-2"}]
    parts = (
        "A sentence.",
        report.Table("Errors", rows),
        report.Picture("A dot.", "dot.png"),
        report.Link("netlists/a.cir"),
        report.Text("Words", "a < b"),
    )
    return [report.Section("First", parts), report.Section("Second", (report.Table("Long", rows, folded=True),))]


def test_the_page_is_whole(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(b"\x89PNG dot")
    page = report.as_html(sections(), tmp_path)
    assert base64.b64encode(b"\x89PNG dot").decode() in page
    assert "&lt;conv&gt;" in page
    assert "<conv>" not in page
    assert "a &lt; b" in page
    assert 'href="netlists/a.cir"' in page
    assert page.count("<table>") == page.count("</table>") == 2
    assert page.count("<details>") == page.count("</details>") == 2
    assert "class=number>1.5" in page
    assert "http" not in page


def test_the_text_says_the_same() -> None:
    text = report.as_text(sections())
    for word in ("First\n=====", "A sentence.", "fc & more", "[dot.png]", "[netlists/a.cir]", "a < b", "Second"):
        assert word in text


def chip(lost: list[float], recovered: float | None) -> dict[str, object]:
    accuracy = {str(i): {"as programmed": 90 - v, "norms calibrated": 90.0} for i, v in enumerate(lost)}
    return {
        "accuracy": accuracy,
        "ablation": [
            {"non-ideality": "a", "without it": 70.0, "alone": 80.0},
            {"non-ideality": "b", "without it": 60.0, "alone": 85.0},
        ],
        "recovered": {"as programmed": recovered, "norms calibrated": None},
        "fine-tuned": 88.0,
    }


def test_the_verdict_names_what_costs_most_and_what_came_back() -> None:
    lines = list(report.verdict("bad", chip([30.0, 10.0], 0.933), 90.0))
    assert lines[0].startswith("bad, as programmed: 30.00 points below ideal; over 2 chips 20.00 points below")
    assert "norms calibrated: 0.00 points below ideal" in lines[1]
    assert "without a, the chip has 70.0 %; with a alone, 80.0 %" in lines[2]
    assert lines[3:] == ["bad, fine-tuned on it: 88.0 %, 93% of what it had lost as programmed (60.0 %)."]
    assert "all of what" in list(report.verdict("good", chip([30.0], 1.2), 90.0))[-1]
