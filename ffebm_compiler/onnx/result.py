"""Readable names for the leaves of a model's result: ``output``, ``output.0``, ``output.logits``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import SymInt, Tensor

from ..nests import Branch, Fixed, Leaf, Part, take_apart


def named_leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each leaf of a result, under its first place in it; a named tuple's fields have names."""
    leaves, part = take_apart(value, lambda v: isinstance(v, (Tensor, SymInt)))
    named = dict[int, str]()
    fixed = list[tuple[str, Any]]()
    for place, leaf in _leaves(part, name):
        if isinstance(leaf, Leaf):
            named.setdefault(leaf.index, place)
        else:
            fixed.append((place, leaf.value))
    yield from ((place, leaves[i]) for i, place in named.items())
    yield from fixed


def _leaves(part: Part, name: str) -> Iterator[tuple[str, Leaf | Fixed]]:
    if isinstance(part, Branch):
        for place, inner in zip(_places(part), part.parts, strict=True):
            yield from _leaves(inner, f"{name}.{place}")
    else:
        yield name, part


def _places(branch: Branch) -> Iterator[str]:
    fields = getattr(branch.type, "_fields", ())
    contents = len(branch.parts) - len(branch.names)
    keys = branch.keys if branch.kind.keyed else fields or range(contents)
    yield from (str(k) for k in [*keys][:contents])
    yield from branch.names
