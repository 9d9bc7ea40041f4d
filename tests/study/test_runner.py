"""The runner measures what is missing, records failures, and stops where it is hopeless."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_fakes import FakeSubject

from ffebm_compiler.chip.hardware import Hardware
from ffebm_compiler.errors import FFEBMError, OptionError
from ffebm_compiler.study import Axis, Bench, Effort, Folder, Point, Record, Samples, Study, points, run, versions

EFFORT = Effort(8, 16, 8, 8)
ASKED = {"versions": versions()}
NOISE, BITS = Axis("read_noise", (0.0, 0.1)), Axis("adc_bits", (4, 13))


def study_of(subject: FakeSubject) -> Study:
    return Study(subject, Hardware(), EFFORT, Bench(subject, Hardware(), EFFORT).fingerprint())


@pytest.mark.slow
def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    wanted, seen = points([NOISE], False, 2), list[Record]()
    with Folder(tmp_path / "s", ASKED) as folder:
        folder.append(Record(wanted[1], {"accuracy": 0.123}))
        run(study_of(FakeSubject()), folder, wanted, 1, seen.append)
        assert [r.point for r in seen] == [wanted[0], wanted[2], wanted[3]]
        assert folder.records[wanted[1].key].metrics == {"accuracy": 0.123}
        assert folder.records[wanted[3].key].metrics["output_error"] == pytest.approx(0.11)
        run(study_of(FakeSubject()), folder, wanted, 1, lambda r: pytest.fail("nothing was left to do"))


def test_an_interrupted_run_leaves_whole_points(tmp_path: Path) -> None:
    wanted = points([NOISE], False, 3)

    def interrupt(record: Record) -> None:
        if record.point == wanted[2]:
            raise KeyboardInterrupt

    folder = Folder(tmp_path / "s", ASKED)
    with folder, pytest.raises(KeyboardInterrupt):
        run(study_of(FakeSubject()), folder, wanted, 1, interrupt)
    with Folder(tmp_path / "s", ASKED) as folder:
        assert folder.left(wanted) == [*wanted[3:]]


def test_a_point_that_fails_is_recorded_with_its_reason(tmp_path: Path) -> None:
    wanted = points([BITS], False, 2)
    with Folder(tmp_path / "s", ASKED) as folder:
        run(study_of(FakeSubject()), folder, wanted, 1)
        errors = [folder.records[p.key].error for p in wanted]
    assert errors == [None, None, *["RuntimeError: a converter of 13 bits"] * 2]


@pytest.mark.parametrize(("chips", "tried"), [(5, 3), (2, 2)])
def test_a_study_in_which_everything_fails_stops(tmp_path: Path, chips: int, tried: int) -> None:
    wanted = points([Axis("adc_bits", (13,))], False, chips)
    folder = Folder(tmp_path / "s", ASKED)
    with folder, pytest.raises(FFEBMError, match=f"the first {tried} points all failed: RuntimeError: a converter"):
        run(study_of(FakeSubject()), folder, wanted, 1)
    assert len(folder.records) == tried


def test_a_model_that_is_another_each_time_is_refused(tmp_path: Path) -> None:
    class Fickle(FakeSubject):
        def samples(self, needed: int) -> Samples:
            return Samples(tuple(x + self.conversions for x in super().samples(needed).inputs))

    folder = Folder(tmp_path / "s", ASKED)
    with folder, pytest.raises(OptionError, match="data: are others each time they are made"):
        run(study_of(Fickle()), folder, [Point((), 0)], 1)
