"""The transpose of a weighted operation in its value: what an array computes when it is driven from its columns.

For ``y = f(x, W)`` linear in x, ``transpose(e, W, x) = (df/dx)^T e``; of ``x`` only shape and type are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...ir import Operation

Transpose = Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], Tensor]


def transpose(operation: Operation, cotangent: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """``(df/dx)^T`` applied to a cotangent."""
    known = _TRANSPOSES.get(operation.name)
    if known is None or not _is_plain(operation, weight, x):
        return _by_differentiation(operation, cotangent, weight, x)
    return known(cotangent, weight, x, operation.options)


def _is_plain(operation: Operation, weight: Tensor, x: Tensor) -> bool:
    """Whether a matrix multiplies, rather than a vector or several; whether a convolution has a batch, and its padding as numbers."""
    if operation.name.startswith("conv"):
        return x.dim() == weight.dim() and not isinstance(operation.options["padding"], str)
    return weight.dim() == 2


def _by_differentiation(operation: Operation, cotangent: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        y = operation(leaf, weight.detach(), None)
    (found,) = torch.autograd.grad(y, leaf, cotangent)
    return found


def _linear(e: Tensor, weight: Tensor, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    return e @ weight


def _matmul(e: Tensor, weight: Tensor, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    return e @ (weight if options["transposed"] else weight.mT)


def _convolution(dimensions: int, transposed: bool) -> Transpose:
    def each(value: Any) -> list[int]:
        return [value] * dimensions if isinstance(value, int) else list(value)

    def apply(e: Tensor, weight: Tensor, x: Tensor, options: Mapping[str, Any]) -> Tensor:
        stride, padding, dilation = (each(options[k]) for k in ("stride", "padding", "dilation"))
        output_padding = each(options.get("output_padding", 0))
        found = torch.ops.aten.convolution_backward(
            e, x, weight, None, stride, padding, dilation, transposed, output_padding, options["groups"], [True, False, False]
        )  # fmt: skip
        return found[0]  # type: ignore[no-any-return]

    return apply


_TRANSPOSES: Mapping[str, Transpose] = {
    "linear": _linear,
    "matmul": _matmul,
    **{f"conv{d}d": _convolution(d, False) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _convolution(d, True) for d in (1, 2, 3)},
}
