"""What the code of a function reads beyond its arguments: numbers and texts of files, of classes and of modules.

    h * GAIN                     names of the file that it is written in
    type(self).factor, Net.GAIN  attributes of classes that it names
    config.GAIN                  names of modules that it names
    helper(h)                    likewise what functions read that it names

No ear can be put on these reads, as on those of objects (:mod:`.recorder`): whatever is read by a name that stands in
the code counts as read. What the code writes itself is no constant.
"""

from __future__ import annotations

import dis
import enum
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from ..users_code import is_theirs
from .paths import closure_of, values_within

_DATA = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device)
Named = tuple[str, Any, frozenset[str]]
"""The way from a function, what is there, and which names of it are read; none of an object that is to be followed."""


def is_plain(value: Any) -> bool:
    """Whether a value is data alone; an empty container is there to be filled."""
    if isinstance(value, (list, tuple, dict)):
        return bool(value) and all(map(is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, _DATA)


def named_by(function: FunctionType) -> tuple[Named, ...]:
    """What a function of the user's reads, and what the functions read that it names."""
    return tuple(_named(function, "", set()))


def _named(function: Any, way: str, met: set[int]) -> Iterator[Named]:
    while hasattr(function, "__wrapped__"):
        function, way = function.__wrapped__, f"{way}.__wrapped__"
    if not isinstance(function, FunctionType) or id(function) in met or not is_theirs(function.__globals__):
        return
    met.add(id(function))
    space, (names, written) = function.__globals__, names_of(function.__code__)
    yield f"{way}.__globals__", space, _plain_of(space, names - written)
    for name in sorted(n for n in names - written if n in space):
        yield from _of_value(space[name], f"{way}.__globals__[{name!r}]", names, met)
    for step, name, contents in closure_of(function):
        if name != "__class__":
            yield from _of_value(contents, f"{way}{step}", names, met)


def _of_value(value: Any, way: str, names: frozenset[str], met: set[int]) -> Iterator[Named]:
    if isinstance(value, type):
        yield from named_of_class(value, way, names, met)
    elif isinstance(value, ModuleType):
        if is_theirs(vars(value)):
            yield way, value, _plain_of(vars(value), names)
            for name in sorted(n for n in names if isinstance(vars(value).get(n), FunctionType)):
                yield from _named(vars(value)[name], f"{way}.{name}", met)
    elif callable(value) and hasattr(value, "__globals__"):
        yield from _named(value, way, met)
    elif not is_plain(value):
        yield from (
            (inner, held, frozenset()) for inner, held in values_within(value, way) if not isinstance(held, _DATA)
        )


def named_of_class(kind: type[Any], way: str, names: frozenset[str], met: set[int] | None = None) -> Iterator[Named]:
    """What is read of a class of the user's by code of those names."""
    met = set() if met is None else met
    bases = [(i - len(kind.__mro__), b) for i, b in enumerate(kind.__mro__) if _is_theirs(b)]
    inherited = {n: v for _, base in reversed(bases) for n, v in vars(base).items() if n in names}
    if plain := _plain_of(inherited, names):
        yield way, kind, plain
    for i, base in bases:
        for name in sorted(n for n in names & vars(base).keys() if isinstance(vars(base)[n], FunctionType)):
            yield from _named(vars(base)[name], f"{way}.__mro__[{i}].{name}", met)


def _is_theirs(kind: type[Any]) -> bool:
    return (
        is_theirs({"__name__": kind.__module__}) and not issubclass(nn.Module, kind) and not issubclass(kind, enum.Enum)
    )


def _plain_of(space: Mapping[str, Any], names: frozenset[str]) -> frozenset[str]:
    return frozenset(n for n in names if not n.startswith("__") and is_plain(space.get(n)))


@lru_cache(maxsize=1 << 14)
def names_of(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The names that code reads, and the global ones that it writes."""
    read = set(code.co_names)
    written = {str(i.argval) for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    for inner in (c for c in code.co_consts if isinstance(c, CodeType)):
        names, stored = names_of(inner)
        read |= names
        written |= stored
    return frozenset(read), frozenset(written)
