"""What is written survives a crash, and a folder belongs to one study."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffebm_compiler.errors import OptionError
from ffebm_compiler.study import Folder, Point, Record, points, summary, versions
from ffebm_compiler.study.sweep import Axis

AXES = [Axis("read_noise", (0.0, 0.1)), Axis("adc_bits", (4, None))]
ASKED = {
    "model": "m:Net",
    "sweeps": {"adc_bits": [4, None]},
    "hardware": {"g_min": 0.0},
    "chips": 2,
    "versions": versions(),
}
ALL = points(AXES, False, 3)


def record(point: Point, value: float = 0.5, error: str | None = None) -> Record:
    return Record(point, {} if error else {"accuracy": value, "residual": 1e-5, "loss": None}, error)


def filled(path: Path, records: list[Record], asked: dict[str, Any] = ASKED) -> None:
    with Folder(path, asked) as folder:
        for one in records:
            folder.append(one)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    written = [record(p, 0.1 * i) for i, p in enumerate(ALL)]
    written[3] = Record(ALL[3], {"residual": math.inf, "accuracy": math.nan, "sweeps": 3.0}, None)
    filled(tmp_path / "s", written)
    for line in (tmp_path / "s" / "points.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    with Folder(tmp_path / "s", ASKED) as folder:
        assert repr([*folder.records.values()]) == repr(written)  # NaN is not equal to itself
        assert folder.left(ALL) == []


def test_points_that_failed_are_tried_again(tmp_path: Path) -> None:
    filled(tmp_path / "s", [record(ALL[0]), record(ALL[1], error="RuntimeError: no")])
    with Folder(tmp_path / "s", ASKED) as folder:
        assert folder.left(ALL[:3]) == [*ALL[1:3]]
        folder.append(record(ALL[1]))
    with Folder(tmp_path / "s", ASKED) as folder:
        assert folder.left(ALL[:3]) == [ALL[2]]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path, cut: int) -> None:
    filled(tmp_path / "s", [record(p) for p in ALL[:3]])
    file = tmp_path / "s" / "points.jsonl"
    whole = file.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    file.write_bytes(whole[: -len(last)] + last[:cut])
    filled(tmp_path / "s", [record(ALL[3])])
    with Folder(tmp_path / "s", ASKED) as folder:
        assert [*folder.records] == [ALL[i].key for i in (0, 1, 3)]


def test_another_study_in_the_folder_is_one_error_that_names_the_differences(tmp_path: Path) -> None:
    filled(tmp_path / "s", [record(ALL[0])])
    other = {**ASKED, "model": "m:Other", "hardware": {"g_min": 1e-6}, "chips": 9, "versions": {"torch": "0"}}
    with pytest.raises(OptionError) as raised:
        Folder(tmp_path / "s", other)
    (problem,) = raised.value.problems
    assert "model was m:Net and is now m:Other" in problem.what
    assert "hardware.g_min was 0.0 and is now 1e-06" in problem.what
    assert "chips" not in problem.what
    assert "versions" not in problem.what


def test_more_chips_may_be_asked_for_and_the_first_versions_stay(tmp_path: Path) -> None:
    filled(tmp_path / "s", [record(ALL[0])], {**ASKED, "versions": {"torch": "1.0"}})
    filled(tmp_path / "s", [], {**ASKED, "chips": 7})
    kept = json.loads((tmp_path / "s" / "study.json").read_text())
    assert (kept["chips"], kept["versions"]) == (7, {"torch": "1.0"})


def test_a_folder_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    with Folder(tmp_path / "s", ASKED), pytest.raises(OptionError, match="in use by another run"):
        Folder(tmp_path / "s", ASKED)
    Folder(tmp_path / "s", ASKED).close()


def test_places_that_can_t_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.json").write_text("{}")
    for name, what in (
        ("file", "is a file"),
        ("photos", "something else"),
        ("no/where", "there is no folder"),
        ("broken", "is no study's configuration"),
    ):
        with pytest.raises(OptionError, match=what):
            Folder(tmp_path / name, ASKED)
    filled(tmp_path / "s", [record(ALL[0])])
    (tmp_path / "s" / "points.jsonl").write_text('{"settings": 3}\n')
    with pytest.raises(OptionError, match="line 1 is no point"):
        Folder(tmp_path / "s", ASKED)


def test_the_summary_is_over_the_chips() -> None:
    values = [0.1, 0.9, 0.4]
    found = summary([*map(record, ALL[:3], values), record(ALL[3], error="no"), record(ALL[4], 0.7)])
    assert [*found] == [ALL[0].settings, ALL[4].settings]
    spread = found[ALL[0].settings]["accuracy"]
    assert (spread.median, spread.chips) == (0.4, 3)
    assert [spread.low, spread.high] == pytest.approx([*np.quantile(values, [0.1, 0.9])])
    assert "loss" not in found[ALL[0].settings]


def test_tables_have_a_row_a_point_and_a_row_a_setting(tmp_path: Path) -> None:
    with Folder(tmp_path / "s", ASKED) as folder:
        for one in [record(ALL[0], 0.25), record(ALL[1], 0.75), record(ALL[3]), record(ALL[4], error="it broke")]:
            folder.append(one)
        folder.append(Record(Point((("adc_bits", 4),), 0), {"accuracy": 1.0}))  # one at a time: the noise is the base's
        folder.write_tables(["read_noise", "adc_bits"])
    with (tmp_path / "s" / "points.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [(r["read_noise"], r["adc_bits"], r["chip"], r["accuracy"]) for r in rows] == [
        ("0.0", "4", "0", "0.25"),
        ("0.0", "4", "1", "0.75"),
        ("0.0", "none", "0", "0.5"),
        ("0.0", "none", "1", ""),
        ("base", "4", "0", "1"),
    ]
    assert rows[3]["error"] == "it broke"
    with (tmp_path / "s" / "summary.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [(r["chips"], r["accuracy_median"]) for r in rows] == [("2", "0.5"), ("1", "0.5"), ("1", "1")]
    assert float(rows[0]["accuracy_low"]) == pytest.approx(0.3)
