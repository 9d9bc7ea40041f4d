"""How far a result is from its record: relative to the largest value of it, so that one bound does for every value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..solve.iteration import peak

TOLERANCE = 1e-4
"""The largest difference, relative to the largest value: what other kernels' rounding may amount to in float32."""

ROUNDINGS = 32
"""So many roundings of a coarser type pass as well."""

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Difference:
    """How far a result is from its record.

    Attributes:
        largest: relative to the largest value of the record.
        where: whose it is.
        dtype: the precision that it was computed in.
    """

    largest: float
    where: str = ""
    dtype: torch.dtype = torch.float32

    def bound(self, tolerance: float = TOLERANCE) -> float:
        """The largest that passes in this precision; none of whole numbers."""
        return max(tolerance, ROUNDINGS * torch.finfo(self.dtype).eps) if self.dtype.is_floating_point else 0.0


def difference(found: Any, recorded: Tensor, where: str, least: float = 0.0) -> Difference:
    """Of one result; another shape or type is infinitely far off.

    Args:
        least: the smallest value that the difference is relative to.
    """
    value = found if isinstance(found, Tensor) else torch.as_tensor(found)
    if value.shape != recorded.shape or value.is_floating_point() != recorded.is_floating_point():
        return Difference(float("inf"), where, recorded.dtype)
    if not recorded.numel():
        return Difference(0.0, where, recorded.dtype)
    same = (value == recorded) | (value.isnan() & recorded.isnan())
    exact = torch.where(same, 0.0, value.double() - recorded.double())
    scale = max(float(peak(torch.where(torch.isfinite(recorded), recorded, 0).double())), least, TINY)
    return Difference(float(exact.abs().max()) / scale, where, recorded.dtype)


def worst(differences: Iterator[Difference]) -> Difference:
    """The largest; one that is no number counts as infinite."""
    return max(
        differences, key=lambda d: d.largest if d.largest == d.largest else float("inf"), default=Difference(0.0)
    )
