"""Nests of values: what a model is called with, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ir import Ref, Weight


def ordinary(values: Any) -> Any:
    """The same values with inference tensors copied to ordinary ones."""
    return torch.utils._pytree.tree_map(
        lambda v: v.clone() if isinstance(v, Tensor) and v.is_inference() else v, values
    )


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
    return {
        torch.utils._pytree.keystr(path): leaf
        for path, leaf in torch.utils._pytree.tree_flatten_with_path(value)[0]
        if isinstance(leaf, Tensor)
    }
