"""Readable names for the leaves of a model's result: ``output``, ``output.0``, ``output.logits``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def named_leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each leaf of a nest of containers, under its place in it; a named tuple's fields have names."""
    if isinstance(value, Mapping):
        places = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        places = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (tuple, list)):
        places = [(str(i), v) for i, v in enumerate(value)]
    else:
        yield name, value
        return
    for place, inner in places:
        yield from named_leaves(inner, f"{name}.{place}")
