"""Tensors as a safetensors file: its header is checked before anything is allocated.

8 bytes: the header's length N | N bytes: {"name": {"dtype", "shape", "data_offsets": [from, to]}, ...} | the data
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from .limits import LARGEST_HEADER, LARGEST_TENSOR, MOST_TENSORS
from .values import NAMES, dtype_name

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_LETTERS = {name: letters for letters, name in _TYPES.items()}
ITEM_SIZES = {name: dtype.itemsize for dtype, name in NAMES.items()}


@dataclass(frozen=True)
class Described:
    """A tensor without its values: the type as numpy writes it, and the shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * int(ITEM_SIZES[self.dtype])


@dataclass(frozen=True)
class Stored(Described):
    """A tensor in a file: ``start`` counts from the file's beginning."""

    start: int


def described(tensor: Tensor) -> Described:
    """Of a type that files hold; ValueError if of another type."""
    return Described(dtype_name(tensor.dtype), tuple(tensor.shape))


def written_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The file of tensors; the same tensors give the same bytes.

    Raises:
        ValueError: one has no values, or values of a type that files do not hold.
    """
    for name, tensor in tensors.items():
        described(tensor)
        if tensor.numel() and (tensor.is_meta or tensor.data_ptr() == 0):
            raise ValueError(f"the tensor {name} has no values")
    held = {name: tensors[name].detach().cpu().contiguous() for name in tensors}
    layout = {name: described(t) for name, t in held.items()}
    return b"".join((_header(layout), *(_bits(held[name]).numpy().tobytes() for name in _in_order(layout))))


def _in_order(tensors: Mapping[str, Described]) -> list[str]:
    """The largest numbers first, so that each stands at a multiple of its size; then by name."""
    return sorted(tensors, key=lambda name: (-ITEM_SIZES[tensors[name].dtype], name))


def _header(tensors: Mapping[str, Described]) -> bytes:
    """The one header of such tensors: its length, and their places, padded to a multiple of eight bytes."""
    entries: dict[str, Any] = {}
    place = 0
    for name in _in_order(tensors):
        t = tensors[name]
        entries[name] = {"dtype": _LETTERS[t.dtype], "shape": list(t.shape), "data_offsets": [place, place + t.size]}
        place += t.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def layout_of(content: bytes) -> dict[str, Stored]:
    """Where each tensor of a file stands.

    Raises:
        ValueError: the header is no header, or does not announce exactly what follows it.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(LARGEST_HEADER, len(content) - 8):
        raise ValueError("announces a header that it does not have")
    try:
        header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (UnicodeError, RecursionError) as failure:
        raise ValueError(f"has no header: {failure}") from failure
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise ValueError("has a header that is no table, or a larger one than any model's")
    found = {name: _stored(name, entry, 8 + length) for name, entry in header.items()}
    _check_spans(found, 8 + length, len(content))
    if _header(found) != content[: 8 + length]:
        raise ValueError("has a header that is spelled in another way than this program writes it")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("has a name twice in its header")
    return found


def _stored(name: str, entry: Any, start: int) -> Stored:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"describes {name[:100]!r} in another way than by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise ValueError(f"has {name[:100]!r} of type {str(dtype)[:20]!r}, which no model's tensors have")
    if not (_counts(shape) and len(shape) <= 16 and _counts(offsets) and len(offsets) == 2):
        raise ValueError(f"has {name[:100]!r} of a shape or place that is none")
    if math.prod(shape) > LARGEST_TENSOR:
        raise ValueError(f"has {name[:100]!r} larger than any model's tensors")
    found = Stored(_TYPES[dtype], tuple(shape), start + offsets[0])
    if found.size != offsets[1] - offsets[0]:
        raise ValueError(f"has {name[:100]!r} of {offsets[1] - offsets[0]} bytes instead of {found.size}")
    return found


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v <= LARGEST_TENSOR * 16 for v in values)


def _check_spans(found: Mapping[str, Stored], start: int, end: int) -> None:
    for stored in sorted(found.values(), key=lambda s: (s.start, s.size)):
        if stored.start != start:
            raise ValueError("has tensors that overlap, or bytes between them")
        start += stored.size
    if start != end:
        raise ValueError(f"has {end - start} bytes more than its header announces")


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file, in the order of their names; ValueError if it is none, or damaged."""
    layout = layout_of(content)
    try:
        found: dict[str, Tensor] = load(content)
    except Exception as failure:  # the library has errors of its own, which are no subclass of what Python has
        raise ValueError(f"can't be read: {failure}") from failure
    for name, stored in layout.items():
        if name not in found or (described(found[name]).dtype, tuple(found[name].shape)) != (
            stored.dtype,
            stored.shape,
        ):
            raise ValueError(f"has {name[:100]!r} in two ways")
        if stored.dtype == "bool" and found[name].numel() and int(_bits(found[name]).max()) > 1:
            raise ValueError(f"has {name[:100]!r} of truth values that are neither 0 nor 1")
    return {name: found[name] for name in sorted(found)}


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(
        described(t) == described(other[n]) and torch.equal(_bits(t), _bits(other[n])) for n, t in one.items()
    )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
