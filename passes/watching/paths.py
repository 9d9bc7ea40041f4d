"""What a value holds within, and the way there as Python writes it: ``cfgs[0].scale``,
``act.__closure__[0].cell_contents``.

Containers hold objects, partials and functions too: their arguments, and what they close over. A way survives copies
and pickles of a model, which the objects do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

DEEPEST = 8
_STEP = re.compile(r"\.?([^.\[\]]+)|\[('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d+)\]")


@lru_cache(maxsize=1 << 14)
def steps_of(path: str) -> tuple[tuple[str | None, Any], ...]:
    """The steps of a way: the name of an attribute, or None and the key in a container."""
    steps = (m.groups() for m in _STEP.finditer(path))
    return tuple((name, None) if name else (None, ast.literal_eval(key)) for name, key in steps)


def reach(root: Any, path: str) -> Any:
    """What is at the end of a way.

    Raises:
        AttributeError: there is nothing any more.
    """
    value = root
    for name, key in steps_of(path):
        try:
            value = getattr(value, name) if name else value[key]
        except (LookupError, TypeError, ValueError) as failure:
            raise AttributeError(f"{path}: {failure}") from None
    return value


def values_within(value: Any, way: str = "", met: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any]]:
    """What is no container in a value, with the way from it; the value itself, if it is none."""
    if id(value) in met or len(met) > DEEPEST:
        return
    inner = parts_of(value)
    if inner is None or isinstance(value, (FunctionType, MethodType)):
        yield way, value
    for step, part in inner or ():
        yield from values_within(part, way + step, met | {id(value)})


def parts_of(value: Any) -> list[tuple[str, Any]] | None:
    """The steps into a container and what is there; None for what is none."""
    if isinstance(value, Mapping):
        return [(f"[{k!r}]", v) for k, v in value.items() if type(k) in (int, str)]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", v) for i, v in enumerate(value)]
    if isinstance(value, SimpleNamespace):
        return [(f".{n}", v) for n, v in vars(value).items()]
    if isinstance(value, partial):
        return [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
    if isinstance(value, MethodType):
        return [(".__self__", value.__self__)]
    if isinstance(value, FunctionType):
        closed = [(step, contents) for step, _, contents in closure_of(value)]
        return [*closed, (".__defaults__", value.__defaults__ or ()), (".__kwdefaults__", value.__kwdefaults__ or {})]
    return None


def closure_of(function: FunctionType) -> Iterator[tuple[str, str, Any]]:
    """What a function closes over: the step there, the name, and what it is; names without a value are left out."""
    for i, (name, cell) in enumerate(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)):
        try:
            contents = cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
        if contents is not None:
            yield f".__closure__[{i}].cell_contents", name, contents
