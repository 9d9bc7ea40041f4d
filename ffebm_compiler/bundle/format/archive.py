"""A bundle in one file: a zip archive of stored members, which any zip program opens.

Equal files give equal bytes: no dates, no comments, no extra fields, one member after the other. So a reader packs what
it has read again and compares, and nothing can hide in headers or between members.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from .limits import LARGEST_ARCHIVE, LARGEST_NAME, MOST_FILES

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_UNIX, _REGULAR_FILE = 3, 0o100644 << 16
_END = struct.Struct("<4s4H2IH")
"""The end: signature, two disks, two counts of members, length and start of the directory, length of a comment."""
_ENTRY, _LOCATOR = 46, 20
"""Bytes of a directory's entry without its name; of what would name a second, larger directory."""


def packed(files: Mapping[str, bytes]) -> bytes:
    """The archive of files, in the order given; ValueError if they are too large for one."""
    if sum(len(c) + 200 + 2 * len(n) for n, c in files.items()) > LARGEST_ARCHIVE:
        raise ValueError("is too large for one file, which counts its bytes in 32 bits")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name, _FIRST_DAY)
            member.create_system, member.external_attr = _UNIX, _REGULAR_FILE
            archive.writestr(member, content)
    return written.getvalue()


def unpacked(file: BinaryIO, size: int) -> dict[str, bytes]:
    """The files of an archive of that many bytes, once it is found to be what :func:`packed` writes.

    Raises:
        ValueError: it is not.
    """
    _check_end(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), size)
            files = {m.filename: archive.read(m) for m in archive.infolist()}
        again = packed(files)
    except ValueError:
        raise
    except Exception as failure:  # the library raises errors of many kinds
        raise ValueError(f"is damaged: {failure}") from failure
    if not _holds(file, again):
        raise ValueError("is damaged: it has other headers than its members, or something between them")
    return files


def _check_end(file: BinaryIO, size: int) -> None:
    """Before the directory is read: it ends the file, and is no longer than the most members take."""
    if size < _END.size:
        raise ValueError("is no zip archive")
    file.seek(max(0, size - _END.size - _LOCATOR))
    tail = file.read()
    signature, *_, count, length, start, _ = _END.unpack(tail[-_END.size :])
    if signature != b"PK\5\6":
        raise ValueError("is no zip archive, or has something behind its end")
    too_long = count > MOST_FILES or length > count * (_ENTRY + LARGEST_NAME)
    if too_long or start + length + _END.size != size or tail[: -_END.size].startswith(b"PK\6\7"):
        raise ValueError("has a directory of another place or size than it says")


def _check_members(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Before a member is read: it takes no more memory than it has bytes in the file."""
    if len({m.filename for m in members}) != len(members):
        raise ValueError("has a directory that names a member twice")
    for member in members:
        described = (member.compress_type, member.compress_size, member.create_system, member.external_attr)
        if described != (zipfile.ZIP_STORED, member.file_size, _UNIX, _REGULAR_FILE):
            raise ValueError(f"has a member {member.filename[:80]!r} that is not stored plainly")
    if sum(m.file_size for m in members) > size:
        raise ValueError("has members that overlap")


def _holds(file: BinaryIO, content: bytes, step: int = 1 << 20) -> bool:
    """Whether a file is that content, no more and no less."""
    file.seek(0)
    same = all(file.read(step) == content[i : i + step] for i in range(0, len(content), step))
    return same and not file.read(1)
