"""A weighted operation on an array of devices: driven from its rows it computes f, from its columns f's transpose.

    y = f(x; W, b) + xi  sqrt( f(x^2; Sigma, sigma_b) )          drive
    c = f_back^T e + xi' sqrt( f^T(e^2; Sigma) )                 feedback

with W and W_back the weights that the conductances amount to (the same devices, or a second array) and Sigma the
variances of the read noise. Independent devices add up to exactly this noise of an output; ``xi`` belongs to the phase
and is held while the block settles. The positions of a convolution are read one after the other, each with its own
noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...ir import Operation
from ...solve.iteration import peak
from .reading import Reading
from .transposes import transpose


@dataclass(frozen=True)
class ArrayWeights:
    """What the devices of one layer amount to, in units of the model's weights.

    Attributes:
        weight, bias: of the drive.
        back: of the feedback; the same tensor where the array is bidirectional.
        variance, bias_variance: of the read noise of a weight; None without.
        back_variance: of a second array's; None where the feedback passes through the devices of the drive.
    """

    weight: Tensor
    bias: Tensor | None
    back: Tensor
    variance: Tensor | None = None
    bias_variance: Tensor | None = None
    back_variance: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether automatic differentiation of the operation gives the feedback."""
        return self.variance is None and self.back is self.weight

    def like(self, value: Tensor) -> ArrayWeights:
        """In the type of a value: mixed precision."""
        if value.dtype == self.weight.dtype and value.device == self.weight.device:
            return self
        weight = self.weight.to(value)
        others = (self.bias, self.variance, self.bias_variance, self.back_variance)
        bias, *variances = [None if t is None else t.to(value) for t in others]
        back = weight if self.back is self.weight else self.back.to(value)
        return ArrayWeights(weight, bias, back, *variances)


@dataclass(frozen=True)
class ArrayCall:
    """One layer's operation, executed on its devices.

    Attributes:
        name: the term's name, under which its noise is drawn.
        operation: the operation that it was.
        weights: what its devices amount to.
        reading: the noise of the phase.
    """

    name: str
    operation: Operation
    weights: ArrayWeights
    reading: Reading

    def __call__(self, x: Tensor) -> Tensor:
        w = self.weights.like(x)
        if w.is_plain:
            return self.operation(x, w.weight, w.bias)  # type: ignore[no-any-return]
        return _Array.apply(x, self, w)  # type: ignore[no-any-return]

    def drive(self, x: Tensor, w: ArrayWeights) -> Tensor:
        y: Tensor = self.operation(x, w.weight, w.bias)
        if w.variance is None:
            return y
        variance: Tensor = self.operation(x * x, w.variance, w.bias_variance)
        return _disturbed(y, variance.clamp_(min=0).sqrt_(), self.reading.noise((self.name, "drive"), y))

    def feedback(self, e: Tensor, w: ArrayWeights, x: Tensor) -> Tensor:
        c = transpose(self.operation, e, w.back, x)
        if w.variance is None:
            return c
        # errors carry layer weights, which grow with depth: their squares would overflow
        unit = peak(e).clamp(min=torch.finfo(e.dtype).tiny)
        variance = transpose(
            self.operation, (e / unit).square_(), w.variance if w.back_variance is None else w.back_variance, x
        )
        return _disturbed(c, variance.clamp_(min=0).sqrt_().mul_(unit), self.reading.noise((self.name, "feedback"), c))


def _disturbed(value: Tensor, deviation: Tensor, noise: Tensor) -> Tensor:
    """A value with noise of this deviation, which is used up."""
    return deviation.mul_(noise).add_(value)


class _Array(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, call: ArrayCall, w: ArrayWeights) -> Tensor:
        ctx.call, ctx.w = call, w
        ctx.save_for_backward(x)
        return call.drive(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, e: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        return ctx.call.feedback(e, ctx.w, x), None, None
