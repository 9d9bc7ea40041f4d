"""Python's plain values as JSON and back, without loss: what JSON has no word for is an object with one key.

(1, 2)  {"tuple": [1, 2]}        {"a": 1}  {"dict": [["a", 1]]}        inf            {"number": "inf"}
Ref     {"value": "relu_1"}      Weight    {"weight": "fc1.bias"}      torch.float32  {"dtype": "float32"}
...     {"ellipsis": null}       slice     {"slice": [0, null, 2]}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...ir import Ref, Weight
from .limits import LARGEST_INTEGER

DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class NotPlainError(ValueError):
    """A value that has no form in a document, or a form that stands for no value."""


def encode(value: Any) -> Any:
    """The JSON of a value; NotPlainError if it is not plain."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST_INTEGER:
            raise NotPlainError(f"{value} is too large a number")
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"number": repr(float(value))}
    if isinstance(value, list):
        return [encode(v) for v in value]
    for kind, tag, written in _ENCODERS:
        if isinstance(value, kind):
            return {tag: written(value)}
    raise NotPlainError(f"{value!r} of type {type(value).__name__} is no plain value")


def decode(document: Any) -> Any:
    """The value of what :func:`encode` wrote; NotPlainError if it wrote nothing like that."""
    if isinstance(document, list):
        return [decode(v) for v in document]
    if not isinstance(document, dict):
        return document
    if len(document) != 1 or (tag := next(iter(document))) not in _DECODERS:
        raise NotPlainError(f"an object of {', '.join(map(repr, [*document][:4])) or 'nothing'} stands for no value")
    try:
        return _DECODERS[tag](document[tag])
    except (KeyError, TypeError, ValueError) as failure:
        raise NotPlainError(f"{tag!r} of {str(document[tag])[:60]} stands for no value") from failure


def plain(value: Any) -> Any:
    """A value for people and for other programs: tuples as lists, what is no finite number as a text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _from_pairs(pairs: Any) -> dict[Any, Any]:
    found = {}
    for key, value in pairs:
        name = decode(key)
        if not isinstance(name, (str, int, float, type(None))) or name in found:
            raise NotPlainError(f"{name!r} is no key")
        found[name] = decode(value)
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """As numpy writes it; NotPlainError if no tensor of a bundle has it."""
    if dtype not in NAMES:
        raise NotPlainError(f"the type {dtype} is none that files hold")
    return NAMES[dtype]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise NotPlainError(f"{value!r} is no name")
    return value


def _from_list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise NotPlainError(f"{values!r} is no list")
    return [decode(v) for v in values]


def _from_slice(values: Any) -> slice:
    start, stop, step = values
    if not all(v is None or (isinstance(v, int) and not isinstance(v, bool)) for v in values):
        raise NotPlainError(f"{values!r} is no slice")
    return slice(start, stop, step)


def _from_ellipsis(value: Any) -> Any:
    if value is not None:
        raise NotPlainError("an ellipsis says nothing more")
    return ...


_ENCODERS: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (tuple, "tuple", lambda v: [encode(x) for x in v]),
    (Mapping, "dict", lambda v: [[encode(key), encode(inner)] for key, inner in v.items()]),
    (Ref, "value", lambda v: v.name),
    (Weight, "weight", lambda v: v.path),
    (torch.dtype, "dtype", dtype_name),
    (slice, "slice", lambda v: [v.start, v.stop, v.step]),
    (type(...), "ellipsis", lambda v: None),
)
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda v: tuple(_from_list(v)),
    "dict": _from_pairs,
    "value": lambda v: Ref(_text(v)),
    "weight": lambda v: Weight(_text(v)),
    "dtype": lambda v: DTYPES[_text(v)],
    "slice": _from_slice,
    "ellipsis": _from_ellipsis,
    "number": lambda v: _NUMBERS[v],
}
