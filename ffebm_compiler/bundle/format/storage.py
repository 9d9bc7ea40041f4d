"""Where a bundle stands: a folder or an archive, as names, sizes and contents. Links in it are never followed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from .archive import unpacked
from .limits import MOST_FILES

_SAFE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
"""A pipe or a device that stands for a file must not hold up its reader."""


class Place(Protocol):
    """Files by name."""

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def read(self, name: str) -> bytes:
        """A file's content; ValueError if it is not what :attr:`sizes` says."""
        ...


@dataclass(frozen=True)
class Folder:
    path: Path
    sizes: Mapping[str, int]

    def read(self, name: str) -> bytes:
        with _opened(self.path / name, getattr(os, "O_NOFOLLOW", 0)) as file:
            content = file.read(self.sizes[name] + 1)
        if len(content) != self.sizes[name]:
            raise ValueError("changes while it is read")
        return content


@dataclass(frozen=True)
class Archive:
    files: Mapping[str, bytes]

    @property
    def sizes(self) -> Mapping[str, int]:
        return {n: len(c) for n, c in self.files.items()}

    def read(self, name: str) -> bytes:
        return self.files[name]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Place]:
    """The files at a path.

    Raises:
        ValueError: there are none of a bundle.
        OSError: they can't be read.
    """
    if path.is_dir():
        yield Folder(path, _sizes(path))
        return
    with _opened(path, 0) as file:
        yield Archive(unpacked(file, os.fstat(file.fileno()).st_size))


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[BinaryIO]:
    handle = os.open(path, os.O_RDONLY | _SAFE | flags)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("is no regular file")
        yield file


def _sizes(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise ValueError(f"holds {entry.name[:100]!r}, which is no regular file")
            if len(found) == MOST_FILES:
                raise ValueError(f"holds more than {MOST_FILES} files")
            found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return dict(sorted(found.items()))
