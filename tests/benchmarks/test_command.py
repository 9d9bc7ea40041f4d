"""python -m benchmarks: files, going on where it stopped, messages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.speed import command, result, suites
from benchmarks.speed.result import Goal, Options, Result
from examples.command import Interrupted

ROW = {"network": "net", "blocks": "2", "feedback": "0.01", "ratio": 2.5, "lower": 2.25, "upper": 3.0, "rounds": 3}


class Suite(ModuleType):
    """A suite that counts its runs."""

    def __init__(self) -> None:
        super().__init__("counted_suite", "Counts its runs.")
        self.runs, self.met, self.stopped = list[Options](), True, False

    def run(self, options: Options) -> Result:
        if self.stopped:
            raise KeyboardInterrupt
        self.runs.append(options)
        return Result([ROW], [Goal("ratio", 2.5, 3.0 if self.met else 2.0)], ["A note."])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    suite = Suite()
    monkeypatch.setitem(sys.modules, "counted_suite", suite)
    monkeypatch.setattr(suites, "present", lambda: {"inference": "counted_suite"})
    monkeypatch.setattr(suites, "SUITES", {"inference": "counted_suite"})
    return suite


def run(folder: Path, *more: str) -> int:
    return command.main(["--out", str(folder), *more])


def test_a_run_writes_what_its_figures_depend_on(
    counted: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--seed", "3", "--repeats", "4") == 0
    found = json.loads((tmp_path / "inference.json").read_text())
    assert found["rows"] == [ROW]
    assert found["configuration"]["seed"] == 3
    assert found["configuration"]["repeats"] == 4
    assert {"processor", "cores", "memory", "device", "threads"} <= found["machine"].keys()
    assert {"torch", "python"} <= found["versions"].keys()
    assert found["date"].startswith("20")
    assert (tmp_path / "inference.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("2.5", "A note.", "met", "1 of 1 goals met", "Counts its runs."))


@pytest.mark.slow
def test_a_result_is_kept_until_something_changes(
    counted: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path), run(tmp_path)
    assert len(counted.runs) == 1
    assert "--again measures anew" in capsys.readouterr().out
    run(tmp_path, "--again")
    assert len(counted.runs) == 2
    run(tmp_path, "--seed", "1")
    assert len(counted.runs) == 3
    monkeypatch.setattr(result, "sources", lambda: "changed")
    run(tmp_path, "--seed", "1")
    assert len(counted.runs) == 4


def test_a_missed_goal_ends_with_1_except_on_small_networks(counted: Suite, tmp_path: Path) -> None:
    counted.met = False
    assert run(tmp_path) == 1
    assert run(tmp_path, "--quick") == 0


def test_an_interruption_leaves_what_was_there(counted: Suite, tmp_path: Path) -> None:
    run(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    counted.stopped = True
    with pytest.raises(Interrupted, match="the same command goes on there"):
        run(tmp_path, "--again")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_digest_is_of_the_sources(tmp_path: Path) -> None:
    source = tmp_path / "passes" / "one.py"
    source.parent.mkdir()
    source.write_text("a = 1\n")
    first = result.sources(tmp_path)
    assert result.sources(tmp_path) == first
    source.write_text("a = 2\n")
    assert result.sources(tmp_path) != first


def test_an_unknown_suite_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "step,speed"])
    assert "'speed' is not one of step, schedules" in capsys.readouterr().err


def test_the_list_has_every_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(suites.present())


def test_a_goal_that_was_not_measured_is_missed() -> None:
    assert not Goal("ratio", None, 3.0).met
    assert "not measured" in str(Goal("ratio", None, 3.0))
    assert Goal("speed-up", 7.0, 6.0, at_least=True).met
    assert not Goal("speed-up", 5.0, 6.0, at_least=True).met
