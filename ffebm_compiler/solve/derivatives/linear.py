"""Operations that are linear in the values that they read: sums, averages, maxima whose winners are known, and what only moves values."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operation import Call, Derivative, Parts, recording


@dataclass(frozen=True)
class Linear(Derivative):
    """``y = A v_0``, whatever else it reads being sizes or indices.

    Attributes:
        back: ``A^T c``.
        ahead: ``A d``; the operation itself by default.
    """

    back: Callable[[Call, Tensor], Tensor]
    ahead: Callable[[Call, Tensor], Tensor] | None = None

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        return {0: self.back(call, c)} if 0 in wanted else {}

    def push(self, call: Call, d: Parts) -> Tensor:
        if self.ahead is not None:
            return self.ahead(call, d[0])
        moved: Tensor = call.operation(d[0], *(call.value(i) for i in range(1, call.arity)))
        return moved


def differentiated(call: Call, c: Tensor) -> Tensor:
    """The transpose of a linear operation by automatic differentiation, at zeros of the operand's shape that take no memory."""
    with recording():
        leaf = c.new_zeros(()).expand(call.shape(0)).requires_grad_()
        y = call.operation(leaf, *(call.value(i) for i in range(1, call.arity)))
    (found,) = torch.autograd.grad(y, leaf, c)
    return found


def mean_back(call: Call, c: Tensor) -> Tensor:
    """Of a mean over dimensions."""
    shape, options = call.shape(0), call.operation.options
    chosen = options["dim"]
    dims = sorted(d % len(shape) for d in ((chosen,) if isinstance(chosen, int) else chosen))
    if not options["keepdim"]:
        for d in dims:
            c = c.unsqueeze(d)
    return (c / math.prod(shape[d] for d in dims)).expand(shape)


def taken_back(call: Call, c: Tensor) -> Tensor:
    """Of the values at given winners."""
    return scattered(c, call.value(1), call.shape(0), call.operation.function.keywords["dimensions"])  # type: ignore[attr-defined]


def scattered(c: Tensor, winners: Tensor, shape: torch.Size, dimensions: int) -> Tensor:
    """Values put back to where they were taken from, added where several were."""
    rows = shape[:-dimensions]
    flat = c.new_zeros((*rows, math.prod(shape[-dimensions:])))
    return flat.scatter_add_(-1, winners.flatten(-dimensions), c.flatten(-dimensions)).view(shape)


def unpadded(call: Call, c: Tensor) -> Tensor:
    return F.pad(c, [-p for p in call.operation.options["pad"]])


def padded(call: Call, d: Tensor) -> Tensor:
    return F.pad(d, call.operation.options["pad"])


def permuted_back(call: Call, c: Tensor) -> Tensor:
    dims = call.operation.options["dims"]
    back = sorted(range(len(dims)), key=lambda i: dims[i] % len(dims))
    return c.permute(back)


def scaled(call: Call, d: Tensor) -> Tensor:
    """A multiple by a number is its own transpose."""
    moved: Tensor = call.operation(d)
    return moved


@dataclass(frozen=True)
class Routed(Derivative):
    """The maximum of windows: the values at the winners that the operands have."""

    reads = (0,)

    def forward(self, call: Call) -> Any:
        return self._take(call)(call.value(0), self._winners(call))

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        take: Any = self._take(call)
        return {0: scattered(c, self._winners(call), call.shape(0), take.keywords["dimensions"])}

    def push(self, call: Call, d: Parts) -> Tensor:
        return self._take(call)(d[0], self._winners(call))

    @staticmethod
    def _take(call: Call) -> Callable[[Tensor, Tensor], Tensor]:
        take = call.operation.take
        assert take is not None, f"{call.operation.name} is not routed"
        return take

    @staticmethod
    def _winners(call: Call) -> Tensor:
        if "winners" not in call.notes:
            assert call.operation.choose is not None, f"{call.operation.name} is not routed"
            call.notes["winners"] = call.operation.choose(call.value(0), **call.operation.options)
        winners: Tensor = call.notes["winners"]
        return winners


@dataclass(frozen=True)
class Sum(Derivative):
    """``v_0 + alpha v_1``, either being repeated to the other's shape."""

    joint = True

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        return {i: reduced(_times(c, self._factor(call, i)), call.shape(i)) for i in wanted}

    def push(self, call: Call, d: Parts) -> Tensor:
        moved = [_times(v, self._factor(call, i)) for i, v in d.items()]
        return moved[0] + moved[1] if len(moved) == 2 else moved[0].expand(together(call.shape(0), call.shape(1)))

    @staticmethod
    def _factor(call: Call, i: int) -> float:
        factor: float = call.operation.options["alpha"] if i == 1 else 1
        return factor


def together(one: torch.Size, other: torch.Size) -> tuple[int, ...]:
    """The shape of a sum; torch.broadcast_shapes loads a library of symbols, which takes a second."""
    short, long = sorted((tuple(one), tuple(other)), key=len)
    short = (1,) * (len(long) - len(short)) + short
    return tuple(b if a == 1 else a for a, b in zip(short, long, strict=True))


def _times(v: Tensor, factor: float) -> Tensor:
    return v if factor == 1 else v * factor


def reduced(c: Tensor, shape: torch.Size) -> Tensor:
    """Summed over what an operand of that shape was repeated along."""
    return c if c.shape == shape else c.sum_to_size(shape)


@dataclass(frozen=True)
class Concatenation(Derivative):
    """Operands side by side."""

    joint = True

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        dim = call.operation.options["dim"]
        shapes = [call.shape(i) for i in range(call.arity)]
        sizes = [0 if shape == (0,) else shape[dim] for shape in shapes]  # torch joins an empty vector to anything
        return {i: c.narrow(dim, sum(sizes[:i]), sizes[i]).reshape(shapes[i]) for i in wanted}

    def push(self, call: Call, d: Parts) -> Tensor:
        like = next(iter(d.values()))
        parts = [d[i] if i in d else like.new_zeros(call.shape(i)) for i in range(call.arity)]
        return torch.cat(parts, call.operation.options["dim"])


def same(call: Call, v: Tensor) -> Tensor:
    return v


def negative(call: Call, v: Tensor) -> Tensor:
    return -v


def shaped_back(call: Call, c: Tensor) -> Tensor:
    return c.reshape(call.shape(0))


def exchanged(call: Call, c: Tensor) -> Tensor:
    return c.transpose(call.operation.options["dim0"], call.operation.options["dim1"])


def unshuffled(call: Call, c: Tensor) -> Tensor:
    return F.pixel_unshuffle(c, call.operation.options["upscale_factor"])
