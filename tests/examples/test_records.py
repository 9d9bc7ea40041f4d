"""Records of a run: files that are whole, tables that line up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.records import replacing, table, versions, write_csv, write_json


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with replacing(path) as file:
        file.write(b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_table_lines_up() -> None:
    text = table([{"name": "a", "value": "1.5"}, {"name": "long", "value": "-20.25", "more": "x"}])
    assert text.splitlines() == ["name   value  more", "----  ------  ----", "a        1.5", "long  -20.25  x"]


def test_csv_has_every_column_once(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"a": 1}, {"a": 2, "b": "x,y"}])
    assert path.read_text() == 'a,b\n1,\n2,"x,y"\n'


def test_json_holds_paths_and_versions(tmp_path: Path) -> None:
    found = json.loads(write_json(tmp_path / "a.json", {"path": tmp_path, "versions": versions()}).read_text())
    assert found["path"] == str(tmp_path)
    assert found["versions"]["torch"] not in ("", "not installed")
