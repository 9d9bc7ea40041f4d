"""Converters at the boundary of digital and analog: rounding to a number of bits over a calibrated range.

A converter of n bits over [-r, r] has ``2^n - 1`` levels, zero among them; over [0, r], where no calibration value was
negative, ``2^n`` levels. One bit over [-r, r] is a sign: the two ends. What lies outside saturates, and is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Range:
    """The calibrated range of one value: [-high, high], or [0, high] where nothing is negative.

    Attributes:
        high: the largest magnitude.
        signed: whether negative values occur.
    """

    high: float
    signed: bool

    @staticmethod
    def covering(value: Tensor, quantile: float = 1.0) -> Range:
        """The range that covers this part of the magnitudes; at least a tiny one."""
        magnitudes = value.detach().abs().flatten().float()
        high = float(magnitudes.max() if quantile >= 1 else _quantile(magnitudes, quantile)) if len(magnitudes) else 0.0
        return Range(max(high, 1e-12), bool((value < 0).any()))

    def joined(self, other: Range) -> Range:
        return Range(max(self.high, other.high), self.signed or other.signed)


def _quantile(magnitudes: Tensor, quantile: float) -> Tensor:
    """By sorting, since torch.quantile is limited to 2^24 values."""
    return magnitudes.sort().values[min(len(magnitudes) - 1, int(quantile * len(magnitudes)))]


def quantised(value: Tensor, bits: int | None, span: Range) -> Tensor:
    """The value as a converter delivers it; as it is with None bits."""
    if bits is None:
        return value
    if span.signed and bits == 1:
        high = torch.full_like(value, span.high)
        return torch.where(value < 0, -high, high)
    low = -span.high if span.signed else 0.0
    step = span.high / (2 ** (bits - 1) - 1 if span.signed else 2**bits - 1)
    return value.clamp(low, span.high).mul_(1 / step).round_().mul_(step)


def saturated(value: Tensor, bits: int | None, span: Range) -> int:
    """How many values lie outside of a converter's range, by more than rounding."""
    if bits is None:
        return 0
    slack = 1e-6 * span.high
    low = -span.high if span.signed else 0.0
    if value.numel() == 0:
        return 0
    least, most = (float(v) for v in torch.aminmax(value.detach()))
    above = int((value > span.high + slack).count_nonzero()) if most > span.high + slack else 0
    return above + (int((value < low - slack).count_nonzero()) if least < low - slack else 0)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor, bits: int, span: Range) -> Tensor:
        return quantised(value, bits, span)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, error: Tensor) -> tuple[Tensor, None, None]:
        return error, None, None


def driven(value: Tensor, bits: int | None, span: Range) -> Tensor:
    """The value as a DAC drives it; its error passes straight through: the digital part upstream knows what it sent."""
    return value if bits is None else _StraightThrough.apply(value, bits, span)


MANY = 0.1
"""A converter that this part of the values lie outside of distorts what it converts, and is spoken of once."""


@dataclass
class Saturation:
    """How many values a converter has seen, how many lay outside of its range, and whether its user was told."""

    values: int = 0
    outside: int = 0
    told: bool = False

    def count(self, value: Tensor, bits: int | None, span: Range) -> None:
        self.values += value.numel()
        self.outside += saturated(value, bits, span)

    @property
    def is_news(self) -> bool:
        """Whether many values lie outside, and nobody was told."""
        return not self.told and self.part > MANY

    @property
    def part(self) -> float:
        return self.outside / self.values if self.values else 0.0
