"""A study's folder: ``study.json`` (what is asked), ``points.jsonl`` (a line a point), ``points.csv``, ``summary.csv``.

A point is one write of one line to the end of ``points.jsonl``, so that whatever stops a study leaves the points before
it; a last line that was cut off is dropped. The tables are made from it.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..files import check_folder, unwritable_folder, write_whole
from .point import Point, Record
from .tables import points_table, summary_table

CONFIGURATION, POINTS, TABLE, SUMMARY = "study.json", "points.jsonl", "points.csv", "summary.csv"

MAY_DIFFER = ("chips", "versions")
"""Of a configuration: more chips may be asked for, and the versions are those of the first run."""


class Folder:
    """A study's folder, open for one run at a time."""

    def __init__(self, path: Path, configuration: Mapping[str, Any]):
        """Makes the folder, or goes on with the study in it.

        Raises:
            OptionError: the folder holds another study or something else, is in use, or can't be written.
        """
        self.path = path
        try:
            self._open(configuration)
        except OSError as failure:
            raise unwritable_folder(path, failure) from failure

    def _open(self, configuration: Mapping[str, Any]) -> None:
        check_folder(self.path, "a study", CONFIGURATION, replace=True)
        self.path.mkdir(exist_ok=True)
        known = self.path / CONFIGURATION
        if known.is_file():
            _check_same(self.path, configuration)
        self._file = os.open(self.path / POINTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        _lock(self._file, self.path)
        self.records = {r.point.key: r for r in self._read()}
        recorded = {**configuration, "versions": _read_json(known)["versions"]} if known.is_file() else configuration
        write_whole(known, json.dumps(recorded, indent=2, ensure_ascii=False) + "\n", "study")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def left(self, points: Iterable[Point]) -> list[Point]:
        """The points without a result; those that failed are tried again."""
        return [p for p in points if (r := self.records.get(p.key)) is None or r.error is not None]

    def append(self, record: Record) -> None:
        """Adds a point for good."""
        self.records[record.point.key] = record
        os.write(self._file, (json.dumps(_line(record), ensure_ascii=False) + "\n").encode())
        os.fsync(self._file)

    def _read(self) -> Iterator[Record]:
        """The records; what a crash left behind the last whole line goes."""
        content = (self.path / POINTS).read_bytes()
        whole, _, rest = content.rpartition(b"\n")
        if rest:
            os.ftruncate(self._file, len(content) - len(rest))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                yield _record(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as failure:
                raise OptionError.at(
                    f"file {self.path / POINTS}", f"line {number} is no point of a study", "Delete that line."
                ) from failure

    # --- tables ----------------------------------------------------------------------------------------

    def write_tables(self, names: Sequence[str]) -> None:
        """``points.csv`` with a row a point and ``summary.csv`` with a row a setting.

        Args:
            names: what is swept.
        """
        write_whole(self.path / TABLE, points_table(self.records.values(), names), "table")
        write_whole(self.path / SUMMARY, summary_table(self.records.values(), names), "table")


# --- lines ------------------------------------------------------------------------------------------------


def _line(record: Record) -> dict[str, Any]:
    """JSON has no infinity: a diverged residual is the text ``inf``."""
    metrics = {k: v if v is None or math.isfinite(v) else str(v) for k, v in record.metrics.items()}
    return {
        "settings": dict(record.point.settings),
        "chip": record.point.chip,
        "metrics": metrics,
        "error": record.error,
    }


def _record(line: Mapping[str, Any]) -> Record:
    metrics = {k: None if v is None else float(v) for k, v in line["metrics"].items()}
    return Record(Point(tuple(line["settings"].items()), int(line["chip"])), metrics, line["error"])


# --- the configuration ------------------------------------------------------------------------------------


def versions(packages: Sequence[str] = ("ffebm_compiler", "torch", "numpy")) -> dict[str, str]:
    """What the numbers were made with."""
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _check_same(path: Path, configuration: Mapping[str, Any]) -> None:
    """One error that says how the study in the folder differs."""
    before, now = _read_json(path / CONFIGURATION), json.loads(json.dumps(configuration))
    parts = [part for part in dict.fromkeys([*before, *now]) if part not in MAY_DIFFER]
    differ = [told for part in parts if (told := _difference(part, before.get(part), now.get(part)))]
    if differ:
        what = f"holds another study: {'; '.join(differ)}"
        raise OptionError.at(f"folder {path}", what, "Go on with the same options, or choose another folder.")


def _difference(part: str, before: Any, now: Any) -> str:
    """Of a part with many differences, the first ones."""
    old, new = _flat({part: before}), _flat({part: now})
    changes = [
        f"{k} was {old.get(k)!s:.60} and is now {new.get(k)!s:.60}"
        for k in dict.fromkeys([*old, *new])
        if old.get(k) != new.get(k)
    ]
    more = [f"and {len(changes) - 3} more of {part}"] if len(changes) > 3 else []
    return "; ".join(changes[:3] + more)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        recorded["versions"]
    except (ValueError, KeyError, TypeError) as failure:
        raise OptionError.at(f"file {path}", "is no study's configuration", "Choose another folder.") from failure
    return recorded  # type: ignore[no-any-return]


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"hardware": {"g_min": 0}}`` as ``{"hardware.g_min": 0}``."""
    flat: dict[str, Any] = {}
    for name, part in value.items():
        flat.update(_flat(part, f"{before}{name}.") if isinstance(part, Mapping) else {f"{before}{name}": part})
    return flat


def _lock(file: int, path: Path) -> None:
    """Two runs that append to one folder would do every point twice; the lock goes with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as failure:
        os.close(file)
        raise OptionError.at(
            f"folder {path}", "is in use by another run", "Wait for it, stop it, or choose another folder."
        ) from failure
