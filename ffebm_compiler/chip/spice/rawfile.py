"""Reads ngspice's raw files: a text header, then float64 values, point by point, in binary or as text.

A raw file is not trusted: every count in it is checked against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError

_MOST_VARIABLES = 10_000_000
_LONGEST_HEADER_LINE = 65_536


@dataclass(frozen=True)
class Plot:
    """One analysis.

    Attributes:
        name: ``"Operating Point"``, ``"Transient Analysis"``.
        variables: ``"time"``, ``"v(s_features_1_0)"``, ..., in lower case.
        values: (points, variables), float64.
    """

    name: str
    variables: tuple[str, ...]
    values: Tensor

    def column(self, variable: str) -> Tensor:
        return self.values[:, self.variables.index(variable)]


def read_raw(content: bytes, where: str = "raw file") -> tuple[Plot, ...]:
    """Every plot of a raw file.

    Raises:
        InputError: it is not one, or is cut off.
    """
    try:
        return tuple(_plots(content))
    except _MalformedError as failure:
        raise InputError.at(where, str(failure), "Let ngspice write it again: ngspice -b -r FILE NETLIST.") from failure


class _MalformedError(Exception):
    """What is wrong with the file."""


def _plots(content: bytes) -> Iterator[Plot]:
    at = 0
    while content[at:].strip():
        header, names, at, binary = _header(content, at)
        points, variables = _count(header, "No. Points"), len(names)
        if "complex" in header.get("Flags", ""):
            raise _MalformedError("holds complex values; only .op and .tran are read")
        values, at = (_binary if binary else _text)(content, at, points, variables)
        yield Plot(header.get("Plotname", ""), names, values)


def _header(content: bytes, at: int) -> tuple[Mapping[str, str], tuple[str, ...], int, bool]:
    """(fields, variables, where the values begin, whether they are binary)."""
    fields: dict[str, str] = {}
    names: tuple[str, ...] = ()
    while True:
        line, at = _line(content, at)
        key, colon, value = line.partition(":")
        if key in ("Binary", "Values"):
            return fields, names, at, key == "Binary"
        if not colon:
            raise _MalformedError(f"has {line[:60]!r} in its header, where a field should be")
        if key == "Variables":
            names, at = _variables(content, at, _count(fields, "No. Variables"))
        fields[key] = value.strip()


def _variables(content: bytes, at: int, count: int) -> tuple[tuple[str, ...], int]:
    names = []
    for _ in range(count):
        line, at = _line(content, at)
        parts = line.split()
        if len(parts) < 3:
            raise _MalformedError(f"has {line[:60]!r} where a variable should be")
        names.append(parts[1].lower())
    return tuple(names), at


def _line(content: bytes, at: int) -> tuple[str, int]:
    end = content.find(b"\n", at, at + _LONGEST_HEADER_LINE)
    if end < 0:
        raise _MalformedError("ends, or has no line break, in the middle of its header")
    return content[at:end].decode("utf-8", errors="replace").rstrip("\r"), end + 1


def _count(fields: Mapping[str, str], key: str) -> int:
    text = fields.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise _MalformedError(f"has {text[:20]!r} as its {key!r}")
    if key == "No. Variables" and int(text) > _MOST_VARIABLES:
        raise _MalformedError(f"claims {text} variables")
    return int(text)


def _binary(content: bytes, at: int, points: int, variables: int) -> tuple[Tensor, int]:
    size = 8 * points * variables
    if size > len(content) - at:
        raise _MalformedError(f"is cut off: {size} bytes of values are announced and {len(content) - at} there")
    values = np.frombuffer(content, dtype="<f8", count=points * variables, offset=at)
    return torch.from_numpy(values.reshape(points, variables).copy()), at + size


def _text(content: bytes, at: int, points: int, variables: int) -> tuple[Tensor, int]:
    """A point is its number, then a value for each variable."""
    if points * (variables + 1) > len(content) - at:
        raise _MalformedError("is cut off: it announces more values than it has characters")
    end = content.find(b"Title:", at)
    end = len(content) if end < 0 else end
    words = content[at:end].split()
    if len(words) != points * (variables + 1):
        raise _MalformedError(f"has {len(words)} values where {points * (variables + 1)} are announced")
    try:
        table = np.array(words, dtype=np.float64).reshape(points, variables + 1)
    except ValueError as failure:
        raise _MalformedError(f"has a value that is no number: {failure}") from failure
    return torch.from_numpy(table[:, 1:].copy()), end
