"""The derivatives of the library's own operations, written down.

They depend on no shape, and nothing has to be found out before they run: a transpose is the very operation that backpropagation runs.
The table is keyed by function objects, so an operation of a user's own that bears the name of one of these is not taken for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ir import Operation, functions
from .derivative import BY_DIFFERENTIATION, Call, Derivative, Parts, recording

aten = torch.ops.aten


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


def _differentiated(call: Call, c: Tensor) -> Tensor:
    """The transpose of a linear operation by automatic differentiation, at zeros of the operand's shape that take no memory."""
    with recording():
        leaf = c.new_zeros(()).expand(call.shape(0)).requires_grad_()
        y = call.operation(leaf, *(call.value(i) for i in range(1, call.arity)))
    (found,) = torch.autograd.grad(y, leaf, c)
    return found


def _averaged(call: Call, c: Tensor) -> Tensor:
    """Of a mean over dimensions."""
    shape, options = call.shape(0), call.operation.options
    chosen = options["dim"]
    dims = sorted(d % len(shape) for d in ((chosen,) if isinstance(chosen, int) else chosen))
    if not options["keepdim"]:
        for d in dims:
            c = c.unsqueeze(d)
    return (c / math.prod(shape[d] for d in dims)).expand(shape)


def _scattered(call: Call, c: Tensor) -> Tensor:
    """Of the values at given winners."""
    return scattered(c, call.value(1), call.shape(0), call.operation.function.keywords["dimensions"])  # type: ignore[attr-defined]


def scattered(c: Tensor, winners: Tensor, shape: torch.Size, dimensions: int) -> Tensor:
    """Values put back to where they were taken from, added where several were."""
    rows = shape[:-dimensions]
    flat = c.new_zeros((*rows, math.prod(shape[-dimensions:])))
    return flat.scatter_add_(-1, winners.flatten(-dimensions), c.flatten(-dimensions)).view(shape)


def _unpadded(call: Call, c: Tensor) -> Tensor:
    return F.pad(c, [-p for p in call.operation.options["pad"]])


def _padded(call: Call, d: Tensor) -> Tensor:
    return F.pad(d, call.operation.options["pad"])


def _put_back(call: Call, c: Tensor) -> Tensor:
    dims = call.operation.options["dims"]
    back = sorted(range(len(dims)), key=lambda i: dims[i] % len(dims))
    return c.permute(back)


def _scaled(call: Call, d: Tensor) -> Tensor:
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
        shape = torch.broadcast_shapes(call.shape(0), call.shape(1))
        return moved[0] + moved[1] if len(moved) == 2 else moved[0].expand(shape)

    @staticmethod
    def _factor(call: Call, i: int) -> float:
        factor: float = call.operation.options["alpha"] if i == 1 else 1
        return factor


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
        sizes = [call.shape(i)[dim] for i in range(call.arity)]
        return {i: c.narrow(dim, sum(sizes[:i]), sizes[i]) for i in wanted}

    def push(self, call: Call, d: Parts) -> Tensor:
        like = next(iter(d.values()))
        parts = [d[i] if i in d else like.new_zeros(call.shape(i)) for i in range(call.arity)]
        return torch.cat(parts, call.operation.options["dim"])


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


def _curve_of_gelu(a: Tensor, approximate: str) -> Tensor:
    if approximate == "none":
        return torch.exp(-0.5 * a * a) * (2 - a * a) / math.sqrt(2 * math.pi)
    k, cubic = math.sqrt(2 / math.pi), 0.044715
    t, first, second = torch.tanh(k * (a + cubic * a**3)), k * (1 + 3 * cubic * a * a), 6 * k * cubic * a
    return (1 - t * t) * (first + a * (second / 2 - t * first * first))


def _curve_of_silu(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 - s) * (2 + a * (1 - 2 * s))


def _curve_of_mish(a: Tensor) -> Tensor:
    s, t = torch.sigmoid(a), torch.tanh(F.softplus(a))
    return s * (1 - t * t) * (2 + a * (1 - s - 2 * s * t))


def _curve_of_hardswish(a: Tensor) -> Tensor:
    return (a.abs() < 3).to(a.dtype) / 3


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


def _sizes(value: Any, d: int) -> tuple[int, ...]:
    return tuple(value) * (d // len(value)) if isinstance(value, Sequence) else (value,) * d


def _padding(call: Call, d: int) -> tuple[int, ...] | None:
    """On each side; None where the two sides differ."""
    padding, kernel = call.operation.options["padding"], call.shape(1)[2:]
    if padding == "valid":
        return (0,) * d
    if padding != "same":
        return _sizes(padding, d)
    widths = [s * (k - 1) for s, k in zip(_sizes(call.operation.options["dilation"], d), kernel, strict=True)]
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
        _sizes(options["stride"], d),
        _padding(call, d),
        _sizes(options["dilation"], d),
        transposed,
        _sizes(options.get("output_padding", 0), d),
        options["groups"],
        [i in wanted for i in range(3)],
    )
    return {i: found[i] for i in wanted}


def _same(call: Call, v: Tensor) -> Tensor:
    return v


def _negative(call: Call, v: Tensor) -> Tensor:
    return -v


def _shaped(call: Call, c: Tensor) -> Tensor:
    return c.reshape(call.shape(0))


def _exchanged(call: Call, c: Tensor) -> Tensor:
    return c.transpose(call.operation.options["dim0"], call.operation.options["dim1"])


def _unshuffled(call: Call, c: Tensor) -> Tensor:
    return F.pixel_unshuffle(c, call.operation.options["upscale_factor"])


def rounded(a: Tensor) -> Tensor:
    return a.to(torch.bfloat16)


def widened(a: Tensor) -> Tensor:
    return a.to(torch.float32)


RESHAPED = Linear(_shaped)
DIFFERENTIATED = Linear(_differentiated)
"""Averages and resized images, whose transposes have a function of PyTorch's for each of many modes."""

PRODUCTS: Mapping[Callable[..., Any], Derivative] = {
    F.linear: Product(_matrix_back, _is_matrix),
    functions.times: Product(_times_back, _is_matrix),
    **dict.fromkeys(CONVOLUTIONS, Product(_convolution_back, _is_batched)),
}

_WINDOW = {"stride", "padding", "dilation", "groups"}

_TABLE: Mapping[Callable[..., Any], tuple[Derivative, set[str]]] = {
    F.linear: (PRODUCTS[F.linear], set()),
    functions.times: (PRODUCTS[functions.times], {"transposed"}),
    **{f: (PRODUCTS[f], _WINDOW | ({"output_padding"} if back else set())) for f, (_, back) in CONVOLUTIONS.items()},
    functions.held_norm: (HeldNorm(), {"eps"}),
    functions.added: (Sum(), {"alpha"}),
    functions.shifted: (Linear(_same, _same), {"constant"}),
    functions.reflected: (Linear(_negative, _negative), {"constant"}),
    functions.multiple: (Linear(_scaled), {"factor"}),
    functions.quotient: (Linear(_scaled), {"divisor"}),
    torch.mul: (Multiplication(), set()),
    functions.concatenated: (Concatenation(), {"dim"}),
    functions.reshaped: (RESHAPED, {"shape"}),
    torch.flatten: (RESHAPED, {"start_dim", "end_dim"}),
    torch.unflatten: (RESHAPED, {"dim", "sizes"}),
    torch.squeeze: (RESHAPED, {"dim"}),
    torch.unsqueeze: (RESHAPED, {"dim"}),
    Tensor.contiguous: (Linear(_same), set()),
    torch.permute: (Linear(_put_back), {"dims"}),
    torch.transpose: (Linear(_exchanged), {"dim0", "dim1"}),
    F.pad: (Linear(_unpadded, _padded), {"pad", "value"}),
    F.pixel_shuffle: (Linear(_unshuffled), {"upscale_factor"}),
    torch.mean: (Linear(_averaged), {"dim", "keepdim"}),
    functions.taken: (Linear(_scattered), set()),
    rounded: (Linear(lambda call, c: widened(c)), set()),
    widened: (Linear(lambda call, c: rounded(c)), set()),
    F.gelu: (Smooth(aten.gelu_backward, _curve_of_gelu), {"approximate"}),
    F.silu: (Smooth(aten.silu_backward, _curve_of_silu), set()),
    F.mish: (Smooth(aten.mish_backward, _curve_of_mish), set()),
    F.hardswish: (Smooth(aten.hardswish_backward, _curve_of_hardswish), set()),
    torch.sin: (Smooth(lambda c, a: c * torch.cos(a), lambda a: -torch.sin(a)), set()),
    torch.cos: (Smooth(lambda c, a: -c * torch.sin(a), lambda a: -torch.cos(a)), set()),
}
"""By function: its derivatives, and the options that these know. With other options it is another function."""

_WHATEVER_THE_OPTIONS: Mapping[Callable[..., Any], Derivative] = {
    F.interpolate: DIFFERENTIATED,
    **{getattr(F, f"{kind}avg_pool{d}d"): DIFFERENTIATED for kind in ("", "adaptive_") for d in (1, 2, 3)},
    **{getattr(F, f"{kind}max_pool{d}d"): Routed() for kind in ("", "adaptive_") for d in (1, 2, 3)},
}


def derivative_of(operation: Operation, moving: Collection[int]) -> Derivative:
    """Of an operation, by the function that it computes.

    Args:
        moving: the operands that depend on states.
    """
    function = functions.identity_of(operation.function)
    derivative, options = _TABLE.get(function, (_WHATEVER_THE_OPTIONS.get(function), set(operation.options)))
    if derivative is None or set(operation.options) != options:
        return BY_DIFFERENTIATION
    return derivative if derivative.joint or all(i == 0 for i in moving) else BY_DIFFERENTIATION
