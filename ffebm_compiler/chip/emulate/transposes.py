"""The transpose of a weighted operation in its value: what an array computes when it is driven from its columns.

For ``y = f(x, W)`` linear in x, ``transpose(e, W, x) = (df/dx)^T e``; of ``x`` only shape and type are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir import Kind, Operation
from ...rules.weighted import CONVOLUTIONS, LINEAR, MATMUL, TRANSPOSED_CONVOLUTIONS

Transpose = Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], Tensor]


def transpose(operation: Operation, cotangent: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """``(df/dx)^T`` applied to a cotangent."""
    known = _TRANSPOSES.get(operation.kind)
    if known is None or not known.holds(operation, weight, x):
        return _by_differentiation(operation, cotangent, weight, x)
    return known.apply(cotangent, weight, x, operation.options)


@dataclass(frozen=True)
class _Known:
    """A transpose as code, and where it holds: ``(operation, weight, x)``."""

    apply: Transpose
    holds: Callable[[Operation, Tensor, Tensor], bool]


def _is_one_matrix(operation: Operation, weight: Tensor, x: Tensor) -> bool:
    """A matrix multiplies, rather than a vector or several."""
    return weight.dim() == 2


def _is_of_a_batch(operation: Operation, weight: Tensor, x: Tensor) -> bool:
    """A convolution has a batch, and its padding as numbers."""
    return x.dim() == weight.dim() and not isinstance(operation.options["padding"], str)


def _by_differentiation(operation: Operation, cotangent: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        y = operation(leaf, weight.detach(), None)
    (gradient,) = torch.autograd.grad(y, leaf, cotangent)
    return gradient


def _linear(e: Tensor, weight: Tensor, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    return e @ weight


def _matmul(e: Tensor, weight: Tensor, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    return e @ (weight if options["transposed"] else weight.mT)


def _convolution(dimensions: int, transposed: bool) -> _Known:
    def each(value: Any) -> list[int]:
        return [value] * dimensions if isinstance(value, int) else list(value)

    def apply(e: Tensor, weight: Tensor, x: Tensor, options: Mapping[str, Any]) -> Tensor:
        stride, padding, dilation = (each(options[k]) for k in ("stride", "padding", "dilation"))
        output_padding = each(options.get("output_padding", 0))
        gradients = torch.ops.aten.convolution_backward(
            e, x, weight, None, stride, padding, dilation, transposed, output_padding, options["groups"],
            [True, False, False],
        )  # fmt: skip
        return gradients[0]  # type: ignore[no-any-return]

    return _Known(apply, _is_of_a_batch)


_TRANSPOSES: Mapping[Kind, _Known] = {
    LINEAR: _Known(_linear, _is_one_matrix),
    MATMUL: _Known(_matmul, _is_one_matrix),
    **{kind: _convolution(d, False) for d, kind in CONVOLUTIONS.items()},
    **{kind: _convolution(d, True) for d, kind in TRANSPOSED_CONVOLUTIONS.items()},
}
