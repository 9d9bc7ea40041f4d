"""What a bundle's graphs compute against what was recorded.

Differences are relative to the largest value of the record, so that one bound does for states, outputs and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ...onnx import Interface
from ...onnx.difference import TINY, Difference, difference
from ...solve.iteration import peak
from .samples import NORM, inputs_of, results_of, summed

Samples = Mapping[str, Tensor]

CANCELLED = 0.1
"""A gradient below this part of the errors that it was made of has lost digits to cancellation."""


def of_gradient(found: Tensor, recorded: Tensor, where: str, least: float = 0.0) -> Difference:
    """Of a gradient whose sum and norm alone are recorded: ``|sum - sum'| <= sqrt(n) |g - g'|``."""
    off = (summed(found) - recorded).abs()
    scale = max(float(recorded[1]), least, TINY)
    return Difference(float(max(off[0] / max(found.numel(), 1) ** 0.5, off[1])) / scale, where, found.dtype)


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
