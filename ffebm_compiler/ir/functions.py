"""What operations compute, where PyTorch has no function of its own for it.

The tables of derivatives and of folding are keyed by these function objects and by PyTorch's own, so they hold for
whoever computes that function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Sizes(tuple):
    """A target shape; what is given at run time, a size or a tuple of sizes, takes the places of ``None`` in order."""

    def fill(self, given: tuple[int | tuple[int, ...], ...]) -> tuple[int, ...]:
        remaining = iter(given)
        filled = [next(remaining) if s is None else s for s in self]
        return tuple(size for entry in filled for size in (entry if isinstance(entry, (tuple, list)) else (entry,)))


def times(a: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """``a @ weight + bias``, the weight transposed first if it is asked for."""
    product = torch.matmul(a, weight.mT if transposed else weight)
    return product if bias is None else product + bias


def added(a: Tensor, b: Tensor, alpha: float = 1) -> Tensor:
    """``a + alpha b``"""
    return torch.add(a, b, alpha=alpha)


def shifted(a: Tensor, constant: float) -> Tensor:
    return a + constant


def reflected(a: Tensor, constant: float) -> Tensor:
    return constant - a


def multiple(a: Tensor, factor: float) -> Tensor:
    return a * factor


def quotient(a: Tensor, divisor: float) -> Tensor:
    return a / divisor


def reshaped(a: Tensor, *sizes: int | tuple[int, ...], shape: Sizes) -> Tensor:
    return a.reshape(shape.fill(sizes))


def concatenated(*parts: Tensor, dim: int) -> Tensor:
    return torch.cat(parts, dim)


def taken(a: Tensor, winners: Tensor, dimensions: int) -> Tensor:
    """The values at the winners of a maximum, which count through the pooled dimensions."""
    return a.flatten(-dimensions).gather(-1, winners.flatten(-dimensions)).view(winners.shape)


def held_norm(
    a: Tensor, mean: Tensor, variance: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """Batch norm by given statistics: ``scale * (a - mean) / sqrt(variance + eps) + shift``."""
    return F.batch_norm(a, mean, variance, scale, shift, False, 0.0, eps)


def identity_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function object that a table is keyed by: of a partial application, the function that is applied."""
    while isinstance(function, partial):
        function = function.func
    return function
