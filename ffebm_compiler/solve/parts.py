"""Sums of what reaches a state: of products of a factor, such as a reverse gain, and a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Part = tuple[float, Tensor]
"""A factor and what it multiplies."""


def total(parts: Sequence[Part]) -> Tensor | None:
    """The sum of ``factor * value``, in one pass a part; what it is given is not overwritten."""
    if not parts:
        return None
    (factor, found), *others = parts
    if factor != 1.0:
        found = found * factor
    for i, (factor, value) in enumerate(others):
        found = torch.add(found, value, alpha=factor) if i == 0 else found.add_(value, alpha=factor)
    return found
