"""The tables of the documentation are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import command, plots, tables
from benchmarks.speed.suites import SUITES

DOCUMENT: dict[str, Any] = {
    "date": "2030-01-02T03:04:05+00:00",
    "configuration": {"repeats": 7, "seed": 0},
    "machine": {"device": "CPU", "processor": "P", "cores": "2", "threads": "2"},
    "versions": {"torch": "2.13"},
    "goals": [],
    "notes": ["A note."],
}
STEP = {
    "network": "net",
    "blocks": "2",
    "feedback": "0.01",
    "ratio": 2.5,
    "lower": 2.25,
    "upper": 3.0,
    "rounds": 3,
    "worst cosine": 0.99995,
    "error": 2e-4,
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "step": [STEP, {**STEP, "blocks": "6"}, {**STEP, "feedback": "unit"}],
    "inference": [{**STEP, "way": way, "ratio": ratio} for way, ratio in (("default", 2.75), ("tolerance=1e-3", 2.5))],
    "schedules": [
        {**STEP, "way": "ours"},
        {**STEP, "way": "paper's schedule", "ratio": 80.0, "upper": 90.0, "error": 0.5},
    ],
    "splitting": [STEP],
    "compiling": [{"network": "chain", "nodes": n, "seconds": n / 1e3, "ratio": 9.0} for n in (100, 300)],
    "memory": [{"way": "backprop", "sweeps": "", "ratio": 1.0}, {"way": "BP-EP", "sweeps": 10, "ratio": 1.25}],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for suite, rows in ROWS.items():
        (tmp_path / f"{suite}.json").write_text(json.dumps({**DOCUMENT, "suite": suite, "rows": rows}))
    return tmp_path


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda p: p.name)
def test_the_pages_say_what_the_results_say(page: Path) -> None:
    assert tables.is_current(page, command.RESULTS), "run python -m benchmarks table"


def test_every_table_has_its_place() -> None:
    places = [m[2] for page in tables.PAGES for m in tables.MARKED.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(places) == sorted(tables.TABLES)
    assert set(SUITES) == {s for t in tables.TABLES.values() for s in t.suites}


def test_a_table_takes_the_place_of_what_was_there(results: Path) -> None:
    page = "before\n<!-- benchmarks: steps -->\nold\n<!-- end -->\nafter\n"
    found = tables.written(page, results)
    assert found.startswith("before\n<!-- benchmarks: steps -->\n| network, blocks of 2 |")
    assert found.endswith("<!-- end -->\nafter\n")
    assert "| net | 2.5 (2.25 to 3) | 0.999950 | 2.75 (2.25 to 3) | 2.5 (2.25 to 3) |" in found
    assert found.count("| net |") == 1
    assert tables.written(found, results) == found


def test_ways_stand_side_by_side_with_their_errors(results: Path) -> None:
    found = tables.written("<!-- benchmarks: ways -->\n<!-- end -->", results)
    assert "| network | blocks | feedback | ours | paper's schedule |" in found
    assert "| net | 2 | 0.01 | 2.5 (2e-04) | 80 (5e-01) |" in found


def test_memory_and_splitting_are_two_sentences(results: Path) -> None:
    found = tables.written("<!-- benchmarks: peaks -->\n<!-- end -->", results)
    assert "at 10 sweeps: 1.25 times backprop's" in found


def test_a_table_without_its_results_stays(tmp_path: Path) -> None:
    page = "<!-- benchmarks: step -->\nold\n<!-- end -->"
    assert tables.written(page, tmp_path) == page


@pytest.mark.slow
@pytest.mark.parametrize("suite", ROWS)
def test_every_suite_has_a_picture(suite: str, results: Path, tmp_path: Path) -> None:
    document = json.loads((results / f"{suite}.json").read_text())
    path = plots.draw(document, tmp_path / "picture.png")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_and_checks(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmarks: steps -->\n<!-- end -->\n")
    monkeypatch.setattr(tables, "PAGES", (page,))
    assert command.table(results, check=True) == 1
    assert "run python -m benchmarks table" in capsys.readouterr().out
    assert command.table(results, check=False) == 0
    assert command.table(results, check=True) == 0
