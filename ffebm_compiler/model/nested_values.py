"""Nests of values: what a model is called with, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..ir import Ref, Weight
from ..nests import Branch, Leaf, NestError, Part, is_tensor, take_apart, tensors_in
from ..torch_private import tree_map


def ordinary(values: Any) -> Any:
    """The same values with inference tensors copied to ordinary ones."""
    return tree_map(lambda v: v.clone() if isinstance(v, Tensor) and v.is_inference() else v, values)


def map_leaves(value: Any, f: Callable[[Any], Any]) -> Any:
    """Applies f to the leaves of the nest of containers that a traced model returns."""
    if isinstance(value, (Ref, Weight)):
        return f(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(v, f) for v in value))
    if isinstance(value, (tuple, list)):
        mapped = (map_leaves(v, f) for v in value)
        return tuple(mapped) if type(value) is tuple else list(mapped)  # fx has lists and tuples of its own
    if isinstance(value, Mapping):
        return {k: map_leaves(v, f) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(map_leaves(value.start, f), map_leaves(value.stop, f), map_leaves(value.step, f))
    return value


def flattened(value: Any) -> dict[str, Tensor]:
    """Every tensor of a nest by its place: ``[0]``, ``.logits``, ``['mask'][1]``; a tensor itself at ``""``."""
    try:
        leaves, part = take_apart(value, is_tensor, once=False)
    except NestError:  # something that hides its contents, beside which all else is looked at
        return {f" {i}": v for i, v in enumerate(tensors_in(value))}
    return {place: leaves[i] for place, i in _places(part, "")}


def _places(part: Part, place: str) -> Iterator[tuple[str, int]]:
    if isinstance(part, Leaf):
        yield place, part.index
    elif isinstance(part, Branch):
        for step, inner in zip(part.steps, part.parts, strict=True):
            yield from _places(inner, place + step)


def form_of(value: Any) -> Part | None:
    """A nest without its tensors; None where it can't be taken apart."""
    try:
        return take_apart(value, is_tensor, once=False)[1]
    except NestError:
        return None
