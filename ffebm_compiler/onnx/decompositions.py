"""Operations of a backward pass, in terms of operations that ONNX has; random ones are in :mod:`.draws`.

A layer that is linear in its input and acts on each spatial axis by itself (average pooling, upsampling) is

    y = x  x_1 M_1  x_2 M_2 ...          M_d a matrix of (output, input) positions along axis d
    dL/dx = dL/dy  x_1 M_1^T  x_2 M_2^T ...

with ``x_d`` the product along axis d, and M_d read off the layer itself, applied to unit vectors. A convolution's
gradient in its input is the transposed convolution, and its gradient in its weight the correlation of input and error,
samples and channels exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..torch_private import outside_modes
from .draws import DRAWS

aten: Any = torch.ops.aten
Matrix = list[list[float]]
Sizes = list[int]


# --- convolution -----------------------------------------------------------------------------------------


def convolution_backward(
    error: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: Sizes, padding: Sizes, dilation: Sizes,
    transposed: bool, output_padding: Sizes, groups: int, mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    n = x.dim() - 2
    stride, padding, dilation = (list(v) * n if len(v) == 1 else list(v) for v in (stride, padding, dilation))
    in_input, in_weight, in_bias = mask
    dx = dw = None
    if in_input and transposed:
        dx = aten.convolution(error, weight, None, stride, padding, dilation, False, [0] * n, groups)
        dx = _first(dx, x.shape[2:])
    elif in_input:
        reached = [  # by the last window, along each axis
            (error.shape[2 + d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (weight.shape[2 + d] - 1) + 1
            for d in range(n)
        ]
        missing = [size - r for size, r in zip(x.shape[2:], reached, strict=True)]
        dx = _transposed(error, weight, stride, padding, dilation, missing, groups)
    if in_weight:
        read, given = (error, x) if transposed else (x, error)
        dw = _correlation(read, given, weight.shape[2:], stride, padding, dilation, groups)
    return dx, dw, error.sum([0, *range(2, error.dim())]) if in_bias else None


def _transposed(
    error: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, missing: Sizes, groups: int
) -> Tensor:
    """The transposed convolution; rows that no window reached get zeros, also more of them than a stride has."""
    within = [min(m, s - 1) for m, s in zip(missing, stride, strict=True)]
    dx: Tensor = aten.convolution(error, weight, None, stride, padding, dilation, True, within, groups)
    beyond = [m - w for m, w in zip(missing, within, strict=True)]
    return aten.constant_pad_nd(dx, [p for b in reversed(beyond) for p in (0, b)], 0.0) if any(beyond) else dx


def _correlation(
    x: Tensor, error: Tensor, kernel: Sequence[int], stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """``dw[o, c, k] = sum_{n, i} error[n, o, i] x[n, c, i * stride + k * dilation]``: channels are the samples."""
    n, channels, *sides = x.shape
    samples = (
        x.reshape([n, groups, channels // groups, *sides])
        .transpose(0, 2)
        .reshape([channels // groups, groups * n, *sides])
    )
    found = aten.convolution(
        samples, error.transpose(0, 1), None, dilation, padding, stride, False, [0] * len(sides), groups
    )
    return _first(found, kernel).transpose(0, 1)


def _first(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Without the positions at the far end that the forward pass left out."""
    for axis, size in enumerate(sizes, 2):
        x = x if x.shape[axis] == size else x.narrow(axis, 0, size)
    return x


# --- maxima: the error goes to the winner ----------------------------------------------------------------


def max_pool_backward(axes: int, error: Tensor, x: Tensor, *options: Any) -> Tensor:
    """Adds each error at the position, in the flattened last ``axes``, of the value that won."""
    winners = options[-1]
    outer, inner = list(x.shape[:-axes]), list(x.shape[-axes:])
    flat = x.new_zeros([*outer, math.prod(inner)])
    places, errors = winners.reshape([*outer, -1]), error.reshape([*outer, -1])
    return flat.scatter_add(-1, places, errors).reshape([*outer, *inner])


# --- layers that are linear along each axis --------------------------------------------------------------


def _apart(error: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """``error x_1 M_1^T x_2 M_2^T ...`` over the last axes."""
    for back, matrix in enumerate(reversed(matrices), 1):
        with _plainly():
            m = torch.tensor(matrix, dtype=error.dtype)  # (output, input)
        error = (error.transpose(-1, -back) @ m).transpose(-1, -back)
    return error


def _columns(layer: Callable[[Tensor], Tensor], size: int) -> Matrix:
    """M of a one-dimensional layer, from its response to unit vectors."""
    with _plainly():
        found: Matrix = layer(torch.eye(size, dtype=torch.float64)[None])[0].t().tolist()
    return found


def _plainly() -> Any:
    """Computes with numbers, unseen by the tracer."""
    return outside_modes()


def avg_pool_backward(
    error: Tensor, x: Tensor, kernel: Sizes, stride: Sizes, padding: Sizes, ceil: bool, padded: bool,
    divisor: int | None = None,
) -> Tensor:  # fmt: skip
    axes = len(kernel)
    steps = stride or kernel

    def along(d: int) -> Matrix:
        size, k, s, p = int(x.shape[d - axes]), kernel[d], steps[d], padding[d]
        if divisor is not None:
            return _windows(size, int(error.shape[d - axes]), k, s, p)
        return _columns(lambda t: torch.nn.functional.avg_pool1d(t, k, s, p, ceil, padded), size)

    return _apart(error if divisor is None else error / divisor, [along(d) for d in range(axes)])


def avg_pool(
    x: Tensor, kernel: list[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,), ceil: bool = False,
    padded: bool = True, divisor: int | None = None,
) -> Any:  # fmt: skip
    """The forward operation with a divisor of one's own, which torch's exporter leaves out without a word."""
    if divisor is None:
        return NotImplemented
    axes = len(kernel)
    steps, before = list(stride) or list(kernel), list(padding) * (axes if len(padding) == 1 else 1)
    sides = []
    for size, k, s, p in zip(x.shape[-axes:], kernel, steps, before, strict=True):
        windows = _pooled(int(size), k, s, p, ceil)
        sides.append((p, max(p, (windows - 1) * s + k - int(size) - p)))
    wide = aten.constant_pad_nd(x, [n for side in reversed(sides) for n in side], 0.0)
    means = {2: aten.avg_pool2d, 3: aten.avg_pool3d}[axes](wide, kernel, steps)
    return means * (math.prod(kernel) / divisor)


def _pooled(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    """The number of windows along an axis."""
    with _plainly():
        return int(torch.nn.functional.avg_pool1d(torch.empty(1, size), kernel, stride, padding, ceil).shape[-1])


def _windows(size: int, windows: int, kernel: int, stride: int, padding: int) -> Matrix:
    """One where a window covers a position."""
    return [[1.0 if 0 <= i + padding - o * stride < kernel else 0.0 for i in range(size)] for o in range(windows)]


def adaptive_avg_pool_backward(axes: int, error: Tensor, x: Tensor) -> Tensor:
    def along(d: int) -> Matrix:
        out = int(error.shape[d - axes])
        return _columns(lambda t: torch.nn.functional.adaptive_avg_pool1d(t, out), int(x.shape[d - axes]))

    return _apart(error, [along(d) for d in range(axes)])


def adaptive_avg_pool3d(x: Tensor, size: list[int]) -> Tensor:
    """The forward operation, which torch's exporter lacks."""

    def along(d: int) -> Matrix:
        columns = _columns(lambda t: torch.nn.functional.adaptive_avg_pool1d(t, size[d]), int(x.shape[d - 3]))
        return [list(row) for row in zip(*columns, strict=True)]

    return _apart(x, [along(d) for d in range(3)])


def _upsampling(forward: Callable[..., Any], axes: int, aligned: bool) -> Callable[..., Tensor]:
    """The backward pass of an upsampling, from its forward operation along one axis."""

    def backward(error: Tensor, out: list[int], sizes: list[int], *options: Any) -> Tensor:
        corners, scales = (options[:1], options[1:]) if aligned else ((), options)
        given = [*scales, *[None] * axes]

        def along(d: int) -> Matrix:
            return _columns(lambda t: forward(t, int(out[d]), corners, given[d]), int(sizes[2 + d]))

        return _apart(error, [along(d) for d in range(axes)])

    return backward


def _nearest(t: Tensor, out: int, corners: tuple[bool, ...], scale: float | None) -> Any:
    return aten.upsample_nearest1d(t, [out], scale)


def _nearest_exact(t: Tensor, out: int, corners: tuple[bool, ...], scale: float | None) -> Any:
    return aten._upsample_nearest_exact1d(t, [out], scale)


def _linear(t: Tensor, out: int, corners: tuple[bool, ...], scale: float | None) -> Any:
    return aten.upsample_linear1d(t, [out], *corners, scale)


def _cubic(t: Tensor, out: int, corners: tuple[bool, ...], scale: float | None) -> Any:
    """There is none for one axis: the other axis of an image that is the same all along."""
    image = t[..., None].expand(*t.shape, 4)
    return aten.upsample_bicubic2d(image.contiguous(), [out, 4], *corners, scale, None)[..., 0]


def replication_pad_backward(error: Tensor, x: Tensor, padding: list[int]) -> Tensor:
    axes = len(padding) // 2

    def along(d: int) -> Matrix:
        before, after = padding[2 * (axes - 1 - d) : 2 * (axes - d)]
        return _columns(lambda t: torch.nn.functional.pad(t, (before, after), mode="replicate"), int(x.shape[d - axes]))

    return _apart(error, [along(d) for d in range(axes)])


# --- products --------------------------------------------------------------------------------------------


def mv(matrix: Tensor, vector: Tensor) -> Any:
    """As a product of matrices: onnxruntime 1.32 fuses a transpose with a product by a vector, and gets it wrong."""
    return aten.mm(matrix, vector.unsqueeze(1)).squeeze(1)


def trilinear(
    a: Tensor, b: Tensor, c: Tensor, new_a: Sizes, new_b: Sizes, new_c: Sizes, summed: Sizes, unrolled: int = 1
) -> Any:
    """``sum a b c``, each with new axes where it has none."""
    a, b, c = (_with_axes(x, axes) for x, axes in ((a, new_a), (b, new_b), (c, new_c)))
    product = a * b * c
    return product.sum(summed) if summed else product


def _with_axes(x: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


# --- weights that are computed ---------------------------------------------------------------------------


def weight_norm_backward(error: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Of ``w = v g / |v|``, the norm over all axes but one."""
    others = [d for d in range(v.dim()) if d != dim]
    along = (v * error).sum(others, keepdim=True)
    norms = norms.reshape(g.shape)
    return g / norms * (error - v * along / (norms * norms)), along / norms


# --- activations -----------------------------------------------------------------------------------------


def elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    """The other two factors than alpha, which ONNX does not have."""
    if (scale, input_scale) == (1.0, 1.0):
        return NotImplemented
    return torch.where(x > 0, x * scale, aten.elu(x * input_scale) * (alpha * scale))


def rrelu(
    x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    """With its mean slope. Not with drawn ones: torch's functional form hands its backward pass others than it drew."""
    return NotImplemented if training else (aten.leaky_relu(x, (lower + upper) / 2), noise.clone())


# --- the table -------------------------------------------------------------------------------------------

OWN: Mapping[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: partial(max_pool_backward, 2),
    aten.max_pool3d_with_indices_backward.default: partial(max_pool_backward, 3),
    aten.adaptive_max_pool2d_backward.default: partial(max_pool_backward, 2),
    aten.adaptive_max_pool3d_backward.default: partial(max_pool_backward, 3),
    aten.avg_pool2d.default: avg_pool,
    aten.avg_pool3d.default: avg_pool,
    aten.avg_pool2d_backward.default: avg_pool_backward,
    aten.avg_pool3d_backward.default: avg_pool_backward,
    aten._adaptive_avg_pool2d_backward.default: partial(adaptive_avg_pool_backward, 2),
    aten._adaptive_avg_pool3d_backward.default: partial(adaptive_avg_pool_backward, 3),
    aten._adaptive_avg_pool3d.default: adaptive_avg_pool3d,
    aten.upsample_nearest1d_backward.default: _upsampling(_nearest, 1, False),
    aten.upsample_nearest2d_backward.default: _upsampling(_nearest, 2, False),
    aten.upsample_nearest3d_backward.default: _upsampling(_nearest, 3, False),
    aten._upsample_nearest_exact1d_backward.default: _upsampling(_nearest_exact, 1, False),
    aten._upsample_nearest_exact2d_backward.default: _upsampling(_nearest_exact, 2, False),
    aten._upsample_nearest_exact3d_backward.default: _upsampling(_nearest_exact, 3, False),
    aten.upsample_linear1d_backward.default: _upsampling(_linear, 1, True),
    aten.upsample_bilinear2d_backward.default: _upsampling(_linear, 2, True),
    aten.upsample_trilinear3d_backward.default: _upsampling(_linear, 3, True),
    aten.upsample_bicubic2d_backward.default: _upsampling(_cubic, 2, True),
    aten.replication_pad1d_backward.default: replication_pad_backward,
    aten.replication_pad2d_backward.default: replication_pad_backward,
    aten.replication_pad3d_backward.default: replication_pad_backward,
    aten.mv.default: mv,
    aten._trilinear.default: trilinear,
    aten._weight_norm_interface_backward.default: weight_norm_backward,
    aten.elu.default: elu,
    aten.rrelu_with_noise_functional.default: rrelu,
    **DRAWS,
}

# Torch's own decompositions give what ONNX's operators do not: in training the unbiased running variance; on a bound
# of a hardtanh a gradient of zero.
_TORCHS = (
    aten._native_batch_norm_legit_functional.default,
    aten._native_batch_norm_legit.no_stats,
    aten.native_batch_norm_backward.default,
    aten.hardtanh_backward.default,
    aten.native_layer_norm_backward.default,
    aten.native_group_norm_backward.default,
)


def table() -> dict[Any, Callable[..., Any]]:
    """What the tracer replaces, by operation."""
    # torch._decomp is private; torch.export.default_decompositions() has all of them, at the cost of making its table
    return {**{op: torch._decomp.decomposition_table[op] for op in _TORCHS}, **OWN}


__all__ = ["table"]
