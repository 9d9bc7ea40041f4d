"""Smooth activations inside of an interaction, with their slopes and what these change by.

Slopes are the operations that backpropagation runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .operation import Call, Derivative, Parts


@dataclass(frozen=True)
class Smooth(Derivative):
    """``phi(v_0)``, entry by entry.

    Attributes:
        slope: ``phi'(a) c``, from c and a.
        curve: ``phi''(a)``.
    """

    slope: Callable[..., Tensor]
    curve: Callable[..., Tensor]
    reads = (0,)
    bends = (0,)

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        return {0: self.push(call, {0: c})} if 0 in wanted else {}

    def push(self, call: Call, d: Parts) -> Tensor:
        a = call.value(0)
        return self.slope(d[0].to(a.dtype), a, **call.operation.options)

    def bend(self, call: Call, d: Parts, b: Tensor, wanted: Collection[int]) -> Parts:
        if "curve" not in call.notes:
            call.notes["curve"] = self.curve(call.value(0), **call.operation.options)
        return {0: call.notes["curve"] * b * d[0]} if 0 in wanted else {}


def curve_of_gelu(a: Tensor, approximate: str) -> Tensor:
    if approximate == "none":
        return torch.exp(-0.5 * a * a) * (2 - a * a) / math.sqrt(2 * math.pi)
    k, cubic = math.sqrt(2 / math.pi), 0.044715
    t, first, second = torch.tanh(k * (a + cubic * a**3)), k * (1 + 3 * cubic * a * a), 6 * k * cubic * a
    return (1 - t * t) * (first + a * (second / 2 - t * first * first))


def curve_of_silu(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 - s) * (2 + a * (1 - 2 * s))


def curve_of_mish(a: Tensor) -> Tensor:
    s, t = torch.sigmoid(a), torch.tanh(F.softplus(a))
    return s * (1 - t * t) * (2 + a * (1 - s - 2 * s * t))


def curve_of_hardswish(a: Tensor) -> Tensor:
    return (a.abs() < 3).to(a.dtype) / 3
