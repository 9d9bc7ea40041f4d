"""What mutations share: how a bundle's files are written down, and how its bits are flipped."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ffebm_compiler.bundle.format.archive import packed

Files = dict[str, bytes]


def written(files: Mapping[str, bytes], draw: random.Random, path: Path) -> Path:
    """As a folder or as an archive, as it is drawn."""
    if draw.random() < 0.5:
        return as_archive(packed(files), path)
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def as_archive(content: bytes, path: Path) -> Path:
    file = path.with_suffix(".ffebm")
    file.write_bytes(content)
    return file


def until_changed(mutate: Callable[..., Any], files: Files, draw: random.Random) -> Files:
    """A mutation that changes nothing is drawn again."""
    while True:
        changed = dict(files)
        mutate(changed, draw)
        if changed != files:
            return changed


def flip(content: bytes, draw: random.Random, count: int = 1) -> bytes:
    flipped = bytearray(content)
    for _ in range(count):
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def one(files: Files, draw: random.Random) -> str:
    return draw.choice([n for n, c in files.items() if c])
