"""Files of a run: written whole or not at all, with the configuration and versions that they came from."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ffebm_compiler import study
from ffebm_compiler.files import write_whole
from ffebm_compiler.tables import aligned, as_csv

PACKAGES = ("ffebm_compiler", "torch", "numpy", "networkx", "scikit-learn", "matplotlib")


def versions() -> dict[str, str]:
    """What the numbers of a run may depend on."""
    machine = {"machine": platform.machine(), "threads": str(torch.get_num_threads())}
    return {**machine, **study.versions(PACKAGES)}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` once it is complete: an interruption leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    yield content
    write_whole(path, content.getvalue(), "file")


def write_text(path: Path, text: str) -> Path:
    with replacing(path) as file:
        file.write(text.encode())
    return path


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """One row a mapping; the columns are the keys of all of them, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return write_text(path, as_csv([columns, *([row.get(c, "") for c in columns] for row in rows)]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text: numbers to the right, words to the left."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(c, "")) for c in columns] for row in rows]
    right = [i for i in range(len(columns)) if all(_numeric(row[i]) for row in cells)]
    rules = ["-" * max(len(row[i]) for row in (columns, *cells)) for i in range(len(columns))]
    return aligned([columns, rules, *cells], right)


def _numeric(text: str) -> bool:
    return text == "" or text[0].isdigit() or text[0] in "+-." or text in ("nan", "inf")
