"""A bundle in one file: a zip archive of stored members, every byte of which follows from names and contents.

No dates, no comments, no extra fields, one member after the other: an archive whose headers are not exactly these is refused,
so nothing can hide in them. Any zip program opens it.

Format: PKWARE, .ZIP File Format Specification (APPNOTE.TXT), version 6.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from .limits import LARGEST_ARCHIVE, LARGEST_NAME, MOST_FILES

_VERSION, _UNIX, _DATE = 20, 3 << 8, 0x21
"""2.0 of the format; made on Unix; 1 January 1980."""
_REGULAR_FILE = 0o100644 << 16
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")


@dataclass(frozen=True)
class Member:
    """One file of an archive; ``offset`` is that of its header."""

    name: str
    size: int
    crc: int
    offset: int

    @property
    def header(self) -> bytes:
        name = self.name.encode()
        fixed = _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(name), 0)
        return fixed + name

    @property
    def entry(self) -> bytes:
        """In the directory at the end."""
        name = self.name.encode()
        return _CENTRAL.pack(
            *(b"PK\1\2", _VERSION | _UNIX, _VERSION, 0, 0, 0, _DATE, self.crc, self.size, self.size),
            *(len(name), 0, 0, 0, 0, _REGULAR_FILE, self.offset),
        ) + name  # fmt: skip

    @property
    def start(self) -> int:
        """Of the content."""
        return self.offset + _LOCAL.size + len(self.name.encode())

    @property
    def end(self) -> int:
        return self.start + self.size


def archived(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """The archive in pieces, the files in the order given.

    Raises:
        ValueError: they are too large for one.
    """
    if sum(len(c) + 200 + 2 * len(n) for n, c in files.items()) > LARGEST_ARCHIVE:
        raise ValueError("is too large for one file, which counts its bytes in 32 bits")
    members: list[Member] = []
    for name, content in files.items():
        members.append(Member(name, len(content), zlib.crc32(content), members[-1].end if members else 0))
        yield members[-1].header
        yield content
    yield from (m.entry for m in members)
    yield _end(members)


def _end(members: list[Member]) -> bytes:
    count, length = len(members), sum(len(m.entry) for m in members)
    return _END.pack(b"PK\5\6", 0, 0, count, count, length, members[-1].end if members else 0, 0)


def members_of(file: BinaryIO, size: int) -> dict[str, Member]:
    """The members of an archive of that many bytes, once its directory is found to be what :func:`archived` writes.

    Raises:
        ValueError: it is not.
    """
    if size < _END.size:
        raise ValueError("is no zip archive")
    file.seek(size - _END.size)
    end = _END.unpack(file.read(_END.size))
    count, length, start = end[4], end[5], end[6]
    if end[0] != b"PK\5\6":
        raise ValueError("is no zip archive, or has something behind its end")
    if count > MOST_FILES or length > count * (_CENTRAL.size + LARGEST_NAME) or start + length + _END.size != size:
        raise ValueError("has a directory of another place or size than it says")
    file.seek(start)
    members = _directory(file.read(length), count)
    if _end(members) != _END.pack(*end) or len({m.name for m in members}) != count:
        raise ValueError("has a directory that does not follow from its members")
    return {m.name: m for m in members}


def _directory(content: bytes, count: int) -> list[Member]:
    members: list[Member] = []
    place = 0
    for _ in range(count):
        if place + _CENTRAL.size > len(content):
            raise ValueError("has a directory that ends early")
        fields = _CENTRAL.unpack_from(content, place)
        name = content[place + _CENTRAL.size : place + _CENTRAL.size + fields[10]]
        if not name.isascii():
            raise ValueError("has a member whose name is not plain text")
        found = Member(name.decode("ascii"), fields[8], fields[7], members[-1].end if members else 0)
        if content[place : place + len(found.entry)] != found.entry:
            raise ValueError(f"has a member {found.name[:80]!r} that is not stored plainly after the one before")
        members.append(found)
        place += len(found.entry)
    if place != len(content):
        raise ValueError("has more in its directory than its members")
    return members


def read_member(file: BinaryIO, member: Member) -> bytes:
    """The content of a member.

    Raises:
        ValueError: its header or its content is not what the directory says.
    """
    file.seek(member.offset)
    if file.read(len(member.header)) != member.header:
        raise ValueError("has another header than its archive's directory says")
    content = file.read(member.size)
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise ValueError("is damaged: its archive's checksum is wrong")
    return content
