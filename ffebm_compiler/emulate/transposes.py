"""The transpose of a weighted operation in its value: what an array computes when it is driven from its columns.

For ``y = f(x, W)`` linear in x, ``transpose(e, W, x) = (df/dx)^T e``; of ``x`` only shape and type are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ir import Operation

Transpose = Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], Tensor]


def transpose(operation: Operation, cotangent: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """``(df/dx)^T`` applied to a cotangent."""
    known = _TRANSPOSES.get(operation.name)
    batched = x.dim() == weight.dim()
    if known is None or (operation.name.startswith("conv") and not (batched and _is_numeric(operation))):
        return _by_differentiation(operation, cotangent, weight, x)
    return known(cotangent, weight, x, operation.options)


def _is_numeric(operation: Operation) -> bool:
    """Whether the padding is given as numbers, not as "same"."""
    return not isinstance(operation.options.get("padding", 0), str)


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
