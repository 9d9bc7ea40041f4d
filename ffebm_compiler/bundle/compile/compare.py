"""What a bundle's graphs compute against what was recorded.

Differences are relative to the largest value of the record, so that one bound does for states, outputs and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...onnx import Interface
from ...solve.iteration import peak
from .samples import NORM, inputs_of, results_of, summed

Samples = Mapping[str, Tensor]

TOLERANCE = 1e-4
"""The largest difference, relative to the largest value: what other kernels' rounding may amount to in float32."""

ROUNDINGS = 32
"""So many roundings of a coarser type pass as well."""

CANCELLED = 0.1
"""A gradient below this part of the errors that it was made of has lost digits to cancellation."""

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


def of_gradient(found: Tensor, recorded: Tensor, where: str, least: float = 0.0) -> Difference:
    """Of a gradient whose sum and norm alone are recorded: ``|sum - sum'| <= sqrt(n) |g - g'|``."""
    off = (summed(found) - recorded).abs()
    scale = max(float(recorded[1]), least, TINY)
    return Difference(float(max(off[0] / max(found.numel(), 1) ** 0.5, off[1])) / scale, where, found.dtype)


def worst(differences: Iterator[Difference]) -> Difference:
    """The largest; one that is no number counts as infinite."""
    return max(
        differences, key=lambda d: d.largest if d.largest == d.largest else float("inf"), default=Difference(0.0)
    )


def missing(samples: Samples, part: str, interface: Interface) -> list[str]:
    """Names that a part's graph needs and no record has."""
    names = [name for _, name in (*inputs_of(part, interface), *results_of(part, interface))]
    return [n for n in names if n not in samples]


def given_to(samples: Samples, part: str, interface: Interface) -> dict[str, Tensor]:
    """What a part's graph was given, by port, without weights and buffers."""
    return {port.name: samples[name] for port, name in inputs_of(part, interface)}


def compared(samples: Samples, part: str, interface: Interface, results: Mapping[str, Any]) -> Iterator[Difference]:
    """Each result of a part's graph with its record.

    Gradients may cancel to nothing (before a norm over two samples), so they are also held to a part of the errors.
    """
    errors = [samples[name] for port, name in inputs_of(part, interface) if port in interface.errors]
    least = CANCELLED * max((float(peak(e)) for e in errors), default=0.0)
    for port, name in results_of(part, interface):
        judge = of_gradient if name.split("/")[1] == NORM else difference
        yield judge(results[port.name], samples[name], port.name, least)
