"""What an attribute holds, as a token that tells whether it has changed since: equal tokens, equal values.

Numbers, texts and functions stand for themselves; containers and arrays for what is in them, which may be changed in place; a tensor for there
being one, since a program reads tensors when it runs; any other object for its class.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Set
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Mark(enum.Enum):
    """What has no value to compare."""

    MISSING = "missing"
    TENSOR = "a tensor"


MISSING, TENSOR = Mark.MISSING, Mark.TENSOR

ATOMS = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), type, enum.Enum, range),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, FunctionType, BuiltinFunctionType),
)
"""What stands for itself: it can't be changed in place."""

REGISTRIES = ("_parameters", "_buffers", "_modules")
LARGEST_ARRAY = 1 << 16
"""Entries of an array that is compared by value."""
DEEPEST = 8


def look(owner: Any, name: str) -> Any:
    """What an object holds under a name, without running a property; or MISSING."""
    return next((place[name] for place in places(owner) if name in place), MISSING)


def places(owner: Any) -> Iterator[Mapping[str, Any]]:
    """Where an attribute of an object may be, in the order in which Python looks."""
    own = getattr(owner, "__dict__", {})
    yield own
    yield from map(vars, type(owner).__mro__)
    yield from (own[r] for r in REGISTRIES if r in own)


def held(owner: Any, name: str) -> Any:
    """The token of what an object holds under a name."""
    value = look(owner, name)
    if isinstance(value, property) and isinstance(owner, nn.Module) and parametrize.is_parametrized(owner, name):
        return TENSOR
    return token(getattr(owner, name, MISSING) if value is MISSING else value)


def token(value: Any, depth: int = DEEPEST) -> Any:
    """The token of a value."""
    if isinstance(value, (float, complex)) and value != value:
        return "not a number"
    if isinstance(value, (*ATOMS, Mark, property, staticmethod, classmethod)):
        return value
    if isinstance(value, Tensor):
        return TENSOR
    if isinstance(value, MethodType):
        return token(value.__func__, depth)
    if isinstance(value, np.ndarray):
        return np.ndarray, value.dtype.str, value.shape, value.tobytes() if value.size <= LARGEST_ARRAY else None
    return type(value), *_contents(value, depth - 1)


def _contents(value: Any, depth: int) -> tuple[Any, ...]:
    if depth <= 0:
        return ()
    if isinstance(value, partial):
        return token(value.func, depth), token(value.args, depth), token(value.keywords, depth)
    if isinstance(value, SimpleNamespace):
        return (token(vars(value), depth),)
    if isinstance(value, Mapping):
        return tuple((token(k, depth), token(v, depth)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(token(v, depth) for v in value)
    return (frozenset(token(v, depth) for v in value),) if isinstance(value, Set) else ()


def is_atom(value: Any) -> bool:
    """Whether a value is the same for as long as it is the same object."""
    return isinstance(value, (*ATOMS, Mark, property)) or (isinstance(value, tuple) and all(map(is_atom, value)))
