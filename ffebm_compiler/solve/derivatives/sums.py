"""Sums of what reaches a state: of products of a factor, such as a reverse gain, and a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Part = tuple[float, Tensor]
"""A factor and what it multiplies."""


def total(parts: Sequence[Part], overwrite: bool = False) -> Tensor | None:
    """The sum of ``factor * value``, in one pass a part; of what it is given at most the first value is overwritten, if that is allowed."""
    if not parts:
        return None
    (factor, found), *others = parts
    if factor != 1.0:
        found = found * factor
    own = overwrite
    for factor, value in others:
        found = found.add_(value, alpha=factor) if own else torch.add(found, value, alpha=factor)
        own = True
    return found


def is_apart(t: Tensor, others: Iterable[Tensor]) -> bool:
    """Whether a tensor shares its memory with none of these."""
    own = t.untyped_storage()._cdata  # a fake tensor has no address, but a storage
    return all(o.untyped_storage()._cdata != own for o in others)
