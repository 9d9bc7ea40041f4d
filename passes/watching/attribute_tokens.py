"""What an attribute holds, as a token that tells whether it has changed since: equal tokens, equal values.

Numbers and texts stand for themselves, functions for what they do; containers and arrays for what is in them, which
may be changed in place; a tensor for there being one, since a program reads tensors when it runs; any other object
for its class.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..torch_private import REGISTRIES
from .paths import DEEPEST, closure_of, parts_of


class Mark(enum.Enum):
    """What has no value to compare."""

    MISSING = "missing"
    TENSOR = "a tensor"


MISSING, TENSOR = Mark.MISSING, Mark.TENSOR


@dataclass(frozen=True)
class Code:
    """What stands for a function: pickle does not find every one by its name.

    Attributes:
        name: as its author wrote it.
        digest: of what it does.
        holds: tokens of its defaults and of what it closes over.
    """

    name: str
    digest: str
    holds: tuple[Any, ...]


_DATA = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), type, enum.Enum, range, BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_FUNCTIONS = (FunctionType, property, staticmethod, classmethod)
ATOMS = (*_DATA, *_FUNCTIONS)
"""What is the same for as long as it is the same object: it can't be changed in place."""

LARGEST_ARRAY = 1 << 16
"""Entries of an array that are kept to be compared; of more, a digest is."""


def is_atom(value: Any) -> bool:
    """Whether a value is the same for as long as it is the same object."""
    return isinstance(value, (*ATOMS, Mark)) or (isinstance(value, tuple) and all(map(is_atom, value)))


def raw_attribute(owner: Any, name: str) -> Any:
    """What an object holds under a name, without running a property; or MISSING."""
    return next((space[name] for space in attribute_spaces(owner) if name in space), MISSING)


def attribute_spaces(owner: Any) -> Iterator[Mapping[str, Any]]:
    """Where an attribute of an object may be, in the order in which Python looks."""
    own = owner if type(owner) is dict else getattr(owner, "__dict__", {})  # the names of a file
    yield own
    yield from map(vars, owner.__mro__[1:] if isinstance(owner, type) else ())
    yield from map(vars, type(owner).__mro__)
    yield from (own[r] for r in REGISTRIES if r in own)


def token_at(owner: Any, name: str) -> Any:
    """The token of what an object holds under a name."""
    value = raw_attribute(owner, name)
    if isinstance(value, property) and isinstance(owner, nn.Module) and parametrize.is_parametrized(owner, name):
        return TENSOR
    is_elsewhere = value is MISSING or isinstance(value, MemberDescriptorType)  # one of __slots__
    return token_of(getattr(owner, name, MISSING) if is_elsewhere else value)


def token_of(value: Any, depth: int = DEEPEST) -> Any:
    """The token of a value."""
    if isinstance(value, (float, complex)) and value != value:
        return "not a number"
    if isinstance(value, _DATA):
        return value
    if isinstance(value, FunctionType):
        return _code(value, depth - 1)
    if isinstance(value, property):
        return property, *(token_of(f, depth) for f in (value.fget, value.fset, value.fdel))
    if isinstance(value, (staticmethod, classmethod)):
        return type(value), token_of(value.__func__, depth)
    if isinstance(value, Tensor):
        return TENSOR
    if isinstance(value, MethodType):
        return token_of(value.__func__, depth)
    if isinstance(value, np.ndarray):
        return np.ndarray, value.dtype.str, value.shape, _entries(value)
    return type(value), *_contents(value, depth - 1)


def _entries(array: np.ndarray[Any, Any]) -> bytes | None:
    """The entries of an array, or a digest of very many; nothing of objects, which are not in it."""
    if array.dtype.hasobject:
        return None
    if array.size <= LARGEST_ARRAY:
        return array.tobytes()
    return hashlib.blake2b(np.ascontiguousarray(array).data).digest()


def _contents(value: Any, depth: int) -> tuple[Any, ...]:
    if depth <= 0:
        return ()
    if isinstance(value, Mapping):
        return tuple((token_of(k, depth), token_of(v, depth)) for k, v in value.items())
    if isinstance(value, Set):
        return (frozenset(token_of(v, depth) for v in value),)
    if isinstance(value, SimpleNamespace):
        return (token_of(vars(value), depth),)
    if isinstance(value, (list, tuple, partial)):
        return tuple(token_of(part, depth) for _, part in parts_of(value) or ())
    return ()


def _code(function: FunctionType, depth: int) -> Code:
    closed = [contents for _, _, contents in closure_of(function)] if depth > 0 else []
    holds = [function.__defaults__ or (), function.__kwdefaults__ or {}, *closed]
    return Code(function.__qualname__, _digest(function.__code__), tuple(token_of(v, depth) for v in holds))


@lru_cache(maxsize=4096)
def _digest(code: CodeType) -> str:
    return hashlib.sha256(repr(_steps(code)).encode()).hexdigest()


def _steps(code: CodeType) -> tuple[Any, ...]:
    constants = [_steps(c) if isinstance(c, CodeType) else _ordered(c) for c in code.co_consts]
    return code.co_code, code.co_names, constants


def _ordered(constant: Any) -> Any:
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
