"""What a suite is given, and what it hands back: a file of JSON with everything that its figures depend on.

A result is known by its configuration and by the sources that it measured; :func:`kept` finds one that is there
already.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.allocator import PLAIN
from benchmarks.speed.machine import machine
from examples import records

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("ffebm_compiler", "passes", "backends", "benchmarks", "examples")
"""Folders whose sources a result depends on."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What every suite is given.

    Attributes:
        quick: small networks, few repeats: shows that everything works.
        device: ``"cpu"`` or ``"cuda"``.
        threads: of the CPU.
        repeats: times that each of two things is timed, in turn.
        allocator: whether freed memory stays with the process.
        seed: of weights and batches.
        progress: whether to show a progress bar.
    """

    quick: bool = False
    device: str = "cpu"
    threads: int = 1
    repeats: int = 7
    seed: int = 0
    allocator: str = PLAIN
    progress: bool = False

    def times(self, full: int | None = None) -> int:
        """Repeats of one measurement; ``full`` bounds those of a long one."""
        return min(self.repeats, 2 if self.quick else full or self.repeats)

    @property
    def configuration(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "progress"}


@dataclass(frozen=True)
class Goal:
    """A bound that a full run must keep; ``measured`` is None where there was nothing to measure."""

    what: str
    measured: float | None
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def __str__(self) -> str:
        found = "not measured" if self.measured is None else f"{self.measured:.3g}"
        wanted = f"at {'least' if self.at_least else 'most'} {self.bound:g}"
        return f"{'met   ' if self.met else 'MISSED'}  {self.what}: {found}, {wanted}"


@dataclass(frozen=True)
class Result:
    """What a suite found.

    Attributes:
        rows: one a measurement; nested values stay out of the printed table.
        goals: what a full run must reach.
        notes: sentences below the table.
    """

    rows: Sequence[Row]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()


def sources(root: Path = ROOT) -> str:
    """A digest of everything that is measured or measures."""
    digest = hashlib.sha256()
    for path in _files(root):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[Path]:
    for folder in MEASURED:
        yield from sorted((root / folder).rglob("*.py"))


def path_of(folder: Path, suite: str) -> Path:
    return folder / f"{suite}.json"


def write(folder: Path, suite: str, options: Options, result: Result, seconds: float) -> Path:
    """The result's file, whole or not at all."""
    document = {
        "suite": suite,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds),
        "configuration": options.configuration,
        "sources": sources(),
        "machine": machine(options.device),
        "versions": records.versions(),
        "rows": list(result.rows),
        "goals": [{**asdict(g), "met": g.met} for g in result.goals],
        "notes": list(result.notes),
    }
    return records.write_json(path_of(folder, suite), document)


def read(folder: Path, suite: str) -> dict[str, Any] | None:
    """A result's document, None where there is none."""
    path = path_of(folder, suite)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def kept(folder: Path, suite: str, options: Options) -> dict[str, Any] | None:
    """The document of the same suite, configuration and sources, where one is there."""
    found = read(folder, suite)
    if found is None or found["configuration"] != options.configuration or found["sources"] != sources():
        return None
    return found
