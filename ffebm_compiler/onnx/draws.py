"""Random operations by uniform numbers in [0, 1) of ``aten.rand``, which the tracer then makes inputs of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def _uniform(like: Tensor, sizes: Any = None) -> Tensor:
    drawn: Tensor = aten.rand(like.shape if sizes is None else sizes, dtype=torch.float32)
    return drawn


def native_dropout(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """Keeps where the number is at least p, with probability 1 - p."""
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = _uniform(x) >= p
    return (torch.zeros_like(x) if p == 1 else kept.to(x.dtype) * x * (1 / (1 - p))), kept


def bernoulli(like: Tensor, p: Tensor | float = 0.5, generator: Any = None) -> Tensor:
    """One where the number is at least 1 - p: where dropout, which draws so too, keeps."""
    return (_uniform(like) >= 1 - p).to(like.dtype)


def exponential(x: Tensor, rate: float = 1.0, generator: Any = None) -> Tensor:
    return (-(1 - _uniform(x)).log() / rate).to(x.dtype)


def rand_like(x: Tensor, dtype: torch.dtype | None = None, **layout: Any) -> Tensor:
    return _uniform(x).to(dtype or x.dtype)


def uniform(x: Tensor, low: float = 0.0, high: float = 1.0, generator: Any = None) -> Tensor:
    return (_uniform(x) * (high - low) + low).to(x.dtype)


def _gaussian(sizes: Any, dtype: torch.dtype) -> Tensor:
    """Box and Muller: two uniform numbers for a normal one."""
    first, second = (aten.rand(sizes, dtype=torch.float32) for _ in range(2))
    drawn: Tensor = (-2 * (1 - first).log()).sqrt() * (2 * math.pi * second).cos()
    return drawn.to(dtype)


def randn(sizes: Any, dtype: torch.dtype | None = None, **layout: Any) -> Tensor:
    return _gaussian(sizes, dtype or torch.get_default_dtype())


def randn_like(x: Tensor, dtype: torch.dtype | None = None, **layout: Any) -> Tensor:
    return _gaussian(x.shape, dtype or x.dtype)


def normal(x: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    return _gaussian(x.shape, x.dtype) * std + mean


DRAWS: Mapping[Any, Callable[..., Any]] = {
    aten.native_dropout.default: native_dropout,
    aten.bernoulli.default: lambda x, generator=None: bernoulli(x, x),
    aten.bernoulli.p: bernoulli,
    aten.bernoulli.Tensor: bernoulli,
    aten.exponential.default: exponential,
    aten.rand_like.default: rand_like,
    aten.uniform.default: uniform,
    aten.randn.default: randn,
    aten.randn_like.default: randn_like,
    aten.normal_functional.default: normal,
}
"""By operation."""
