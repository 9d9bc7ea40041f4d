"""The course of a training as JSON lines: what was asked, then a line a step. Resumed, it goes on in its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..files import write_whole


class Metrics:
    """An open file of metrics.

    Attributes:
        asked: what the steps in it so far were asked for; None where it is not known.

    Args:
        path: the file.
        steps: the steps taken already; the lines of later ones, which were taken after the last checkpoint, are taken
            back.

    Raises:
        OptionError: it can't be written.
    """

    def __init__(self, path: Path, steps: int):
        self.path = path
        kept = _kept(path, steps) if steps else []
        self.asked = next((e["began"] for line in reversed(kept) if "began" in (e := json.loads(line))), None)
        write_whole(path, "".join(kept), "metrics")
        self._file: TextIO = path.open("a", encoding="utf-8")

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def begin(self, asked: Mapping[str, Any]) -> None:
        """What the following steps were asked for."""
        self._write({"began": dict(asked)})

    def step(self, number: int, epoch: int, loss: float) -> None:
        self._write({"step": number, "epoch": epoch, "loss": loss})

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()


def _kept(path: Path, steps: int) -> list[str]:
    """The lines of steps that the checkpoint holds; a line that a kill has cut off ends them."""
    if not path.is_file():
        return []
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n") or not isinstance(entry, dict) or entry.get("step", 0) > steps:
            break
        kept.append(line)
    return kept
