"""Products: of values and weights (linear maps, convolutions), of values and scales, and held norms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ir import functions
from .linear import reduced
from .operation import BY_DIFFERENTIATION, Call, Derivative, Parts, recording

aten = torch.ops.aten


@dataclass(frozen=True)
class Multiplication(Derivative):
    """``v_0 v_1``, entry by entry, either being repeated to the other's shape."""

    reads = (0, 1)
    bends = (0, 1)
    joint = True

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        return {i: reduced(c * call.value(1 - i), call.shape(i)) for i in wanted}

    def push(self, call: Call, d: Parts) -> Tensor:
        moved: list[Tensor] = [v * call.value(1 - i) for i, v in d.items()]
        return moved[0] if len(moved) == 1 else moved[0] + moved[1]

    def bend(self, call: Call, d: Parts, b: Tensor, wanted: Collection[int]) -> Parts:
        return {i: reduced(b * d[1 - i], call.shape(i)) for i in wanted if 1 - i in d}


@dataclass(frozen=True)
class HeldNorm(Derivative):
    """``scale (v - mean) / sqrt(variance + eps) + shift`` of each channel; statistics are not trained."""

    bends = (2, 3)

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        found: Parts = {}
        if 0 in wanted:
            found[0] = c * self._wide(c, self._slope(call))
        if 3 in wanted:
            centred = call.value(0) - self._wide(c, call.value(1))
            found[3] = self._summed(c * centred) * self._inverse(call)
        if 4 in wanted:
            found[4] = self._summed(c)
        rest = [i for i in wanted if i in (1, 2)]
        return {**found, **BY_DIFFERENTIATION.pull(call, c, rest)} if rest else found

    def push(self, call: Call, d: Parts) -> Tensor:
        return d[0] * self._wide(d[0], self._slope(call))

    def bend(self, call: Call, d: Parts, b: Tensor, wanted: Collection[int]) -> Parts:
        found = {3: self._summed(b * d[0]) * self._inverse(call)} if 3 in wanted else {}
        return {**found, **BY_DIFFERENTIATION.bend(call, d, b, [2])} if 2 in wanted else found

    @staticmethod
    def _inverse(call: Call) -> Tensor:
        return torch.rsqrt(call.value(2) + call.operation.options["eps"])

    def _slope(self, call: Call) -> Tensor:
        scale, inverse = call.value(3), self._inverse(call)
        return inverse if scale is None else inverse * scale

    @staticmethod
    def _wide(like: Tensor, channels: Tensor) -> Tensor:
        return channels.view(1, -1, *[1] * (like.dim() - 2))

    @staticmethod
    def _summed(v: Tensor) -> Tensor:
        return v.sum([0, *range(2, v.dim())])


@dataclass(frozen=True)
class Product(Derivative):
    """A map that is linear in its values v_0 and in its weight v_1, with a bias v_2.

    Attributes:
        back: the gradients asked for of ``<c, f>``, from c, the operation's options, and both factors; it reads none that it does not need.
        suits: whether it can be had so; by automatic differentiation otherwise.
    """

    back: Callable[[Call, Tensor, Tensor, Tensor, Collection[int]], Parts]
    suits: Callable[[Call], bool]
    reads = (0, 1)
    bends = (1,)

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        return self._back(call, c, call.value(0), wanted)

    def push(self, call: Call, d: Parts) -> Tensor:
        moved: Tensor = call.operation(d[0], call.value(1), None)
        return moved

    def bend(self, call: Call, d: Parts, b: Tensor, wanted: Collection[int]) -> Parts:
        weight = [i for i in wanted if i == 1]
        return self._back(call, b, d[0], weight) if weight else {}

    def _back(self, call: Call, c: Tensor, values: Tensor, wanted: Collection[int]) -> Parts:
        if not self.suits(call):
            return _product_differentiated(call, c, values, wanted)
        weight: Tensor = call.value(1)
        used = _type_of_products(weight)
        if c.dtype == values.dtype == weight.dtype == used:
            return self.back(call, c, values, weight, wanted)
        found = self.back(call, c.to(used), values.to(used), weight.to(used), wanted)
        return {i: g.to(weight.dtype if i else values.dtype) for i, g in found.items()}


def _type_of_products(weight: Tensor) -> torch.dtype:
    """The weight's own, or that of mixed precision."""
    device = weight.device.type
    mixed = torch.is_autocast_enabled(device) and weight.dtype != torch.float64
    return torch.get_autocast_dtype(device) if mixed else weight.dtype


def _product_differentiated(call: Call, c: Tensor, values: Tensor, wanted: Collection[int]) -> Parts:
    with recording():
        read = [values.detach().clone(), *(call.value(i) for i in range(1, call.arity))]
        leaves = {i: read[i].detach().clone().requires_grad_() for i in wanted}
        y = call.operation(*(leaves.get(i, v) for i, v in enumerate(read)))
    found = torch.autograd.grad(y, list(leaves.values()), c.to(y.dtype))
    return dict(zip(leaves, found, strict=True))


def _rows(v: Tensor) -> Tensor:
    return v.reshape(-1, v.shape[-1])


def _matrix_back(call: Call, c: Tensor, values: Tensor, matrix: Tensor, wanted: Collection[int]) -> Parts:
    """Of ``values @ matrix^T + bias``."""
    found: Parts = {}
    if 0 in wanted:
        found[0] = c @ matrix
    if 1 in wanted:
        found[1] = _rows(c).mT @ _rows(values)
    if 2 in wanted:
        found[2] = reduced(c, call.shape(2))
    return found


def _times_back(call: Call, c: Tensor, values: Tensor, weight: Tensor, wanted: Collection[int]) -> Parts:
    transposed = call.operation.options["transposed"]
    found = _matrix_back(call, c, values, weight if transposed else weight.mT, wanted)
    if 1 in found and not transposed:
        found[1] = found[1].mT
    return found


def _is_matrix(call: Call) -> bool:
    return len(call.shape(1)) == 2


CONVOLUTIONS: Mapping[Callable[..., Any], tuple[int, bool]] = {
    F.conv1d: (1, False),
    F.conv2d: (2, False),
    F.conv3d: (3, False),
    F.conv_transpose1d: (1, True),
    F.conv_transpose2d: (2, True),
    F.conv_transpose3d: (3, True),
}
"""The dimensions of each, and whether it is transposed."""


def sizes(value: Any, d: int) -> tuple[int, ...]:
    """An option that may be one number for all dimensions."""
    return tuple(value) * (d // len(value)) if isinstance(value, Sequence) else (value,) * d


def _padding(call: Call, d: int) -> tuple[int, ...] | None:
    """On each side; None where the two sides differ."""
    padding, kernel = call.operation.options["padding"], call.shape(1)[2:]
    if padding == "valid":
        return (0,) * d
    if padding != "same":
        return sizes(padding, d)
    widths = [s * (k - 1) for s, k in zip(sizes(call.operation.options["dilation"], d), kernel, strict=True)]
    return None if any(w % 2 for w in widths) else tuple(w // 2 for w in widths)


def _is_batched(call: Call) -> bool:
    """Whether it is a batch that is convolved, with the same padding on both sides."""
    d, _ = CONVOLUTIONS[call.operation.function]
    return len(call.shape(0)) == d + 2 and _padding(call, d) is not None


def _convolution_back(call: Call, c: Tensor, values: Tensor, weight: Tensor, wanted: Collection[int]) -> Parts:
    (d, transposed), options = CONVOLUTIONS[call.operation.function], call.operation.options
    found = aten.convolution_backward(
        c,
        values,
        weight,
        [c.shape[1]],
        sizes(options["stride"], d),
        _padding(call, d),
        sizes(options["dilation"], d),
        transposed,
        sizes(options.get("output_padding", 0), d),
        options["groups"],
        [i in wanted for i in range(3)],
    )
    return {i: found[i] for i in wanted}


PRODUCTS: Mapping[Callable[..., Any], Derivative] = {
    F.linear: Product(_matrix_back, _is_matrix),
    functions.times: Product(_times_back, _is_matrix),
    **dict.fromkeys(CONVOLUTIONS, Product(_convolution_back, _is_batched)),
}
