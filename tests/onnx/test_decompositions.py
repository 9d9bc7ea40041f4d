"""Backward passes written in other operations against torch's own, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ffebm_compiler.onnx.decompositions import table

EXACT = 1e-12


class Decomposed(TorchDispatchMode):
    """Runs what is in the table as the table says, and notes it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.used = table(), set[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = self.table.get(function)
        found = NotImplemented if own is None else own(*args, **(kwargs or {}))
        if found is NotImplemented:
            return function(*args, **(kwargs or {}))
        self.used.add(str(function))
        return found


def compared(layer: Callable[..., Tensor], *inputs: Tensor) -> tuple[float, set[str]]:
    """The largest difference of the gradients in all inputs, relative to the largest gradient; and what was
    decomposed.
    """
    leaves = [x.double().requires_grad_() for x in inputs]
    result = layer(*leaves)
    error = torch.randn_like(result)
    exact = torch.autograd.grad(result, leaves, error)
    with Decomposed() as mode:
        found = torch.autograd.grad(layer(*leaves), leaves, error)
    scale = max(float(g.abs().max()) for g in exact)
    return max(float((a - b).abs().max()) for a, b in zip(exact, found, strict=True)) / scale, mode.used


def image(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(sum(sizes)))


sizes = st.integers(1, 3)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    axes=st.integers(1, 3),
    stride=sizes,
    padding=st.integers(0, 2),
    dilation=sizes,
    groups=st.integers(1, 2),
    kernel=sizes,
    side=st.integers(4, 7),
    transposed=st.booleans(),
    extra=st.integers(0, 2),
)
def test_convolutions(
    axes: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    kernel: int,
    side: int,
    transposed: bool,
    extra: int,
) -> None:
    assume(padding <= dilation * (kernel - 1))
    assume(transposed or dilation * (kernel - 1) < side + 2 * padding)
    assume(extra < max(stride, dilation))
    x = image(2, 4, side, *([side + 1] * (axes - 1)))
    convolve: Callable[..., Tensor]
    if transposed:
        weight = image(4, 6 // groups, *[kernel] * axes)
        convolve = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[axes]
        options: Sequence[int] = (stride, padding, extra, groups, dilation)
    else:
        weight = image(6, 4 // groups, *[kernel] * axes)
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
        options = (stride, padding, dilation, groups)
    error, used = compared(lambda x, w, b: convolve(x, w, b, *options), x, weight, image(6))
    assert error <= EXACT
    assert used == {"aten.convolution_backward.default"}


X = image(2, 3, 9, 8)
LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average, without the padding, to the end": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    "average, oblong": lambda x: F.avg_pool2d(x, (3, 2), (2, 3), (1, 0), True, True),
    "average, own divisor": lambda x: F.avg_pool2d(x, 3, 2, 1, True, True, 5),
    "average, of one axis": lambda x: F.avg_pool1d(x[0], 3, 2, 1),
    "average, of three axes": lambda x: F.avg_pool3d(x, (2, 3, 2)),
    "average, without a batch": lambda x: F.avg_pool2d(x[0], 3),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive average, of three axes": lambda x: F.adaptive_avg_pool3d(x[None], 2),
    "maximum": lambda x: F.max_pool2d(x, 3, 2, 1),
    "maximum, dilated": lambda x: F.max_pool2d(x, 2, 1, 0, 2, True),
    "maximum, of one axis": lambda x: F.max_pool1d(x[0], 3),
    "maximum, of three axes": lambda x: F.max_pool3d(x[None], 2),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest, by a fraction": lambda x: F.interpolate(x, scale_factor=1.7),
    "nearest, exact": lambda x: F.interpolate(x, scale_factor=1.7, mode="nearest-exact"),
    "linear": lambda x: F.interpolate(x[0], scale_factor=2, mode="linear"),
    "bilinear, smaller": lambda x: F.interpolate(x, size=(5, 11), mode="bilinear"),
    "bilinear, aligned": lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "trilinear": lambda x: F.interpolate(x[:, :, None], scale_factor=2, mode="trilinear"),
    "replicated": lambda x: F.pad(x, (1, 2, 0, 3), mode="replicate"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_pooling_and_resizing(name: str) -> None:
    error, used = compared(LAYERS[name], X)
    assert error <= EXACT
    assert used, "it is torch's own otherwise"


def test_weight_norm_and_products() -> None:
    error, used = compared(lambda v, g: torch._weight_norm(v, g, 0), image(5, 4), image(5, 1))
    assert error <= EXACT
    assert any("weight_norm" in u for u in used)
    error, used = compared(lambda m, v: torch.mv(m, v), image(5, 4), image(4))
    assert error <= EXACT
    assert "aten.mv.default" in used


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3])
def test_an_average_with_its_own_divisor(kernel: int, stride: int, padding: int, ceil: bool) -> None:
    """Which torch's exporter would leave out."""
    for padded in (False, True):
        with Decomposed() as mode:
            found = F.avg_pool2d(X, kernel, stride, padding, ceil, padded, 5)
        torch.testing.assert_close(found, F.avg_pool2d(X, kernel, stride, padding, ceil, padded, 5))
        assert mode.used == {"aten.avg_pool2d.default"}
    volume = image(2, 3, 4, 5, 6)
    with Decomposed():
        found = F.avg_pool3d(volume, kernel, stride, padding, ceil, True, 7)
    torch.testing.assert_close(found, F.avg_pool3d(volume, kernel, stride, padding, ceil, True, 7))


def test_a_hardtanh_has_no_slope_on_its_bounds() -> None:
    """ONNX's own form of its gradient has one there."""
    bounds = torch.tensor([0.0, 6.0, -1.0, 1.0, 7.0])
    difference, used = compared(lambda x: F.hardtanh(x, 0.0, 6.0), bounds)
    assert difference == 0
    assert used == {"aten.hardtanh_backward.default"}


def test_bilinear_forms() -> None:
    found, used = compared(F.bilinear, image(4, 3), image(4, 2), image(5, 3, 2), image(5))
    assert found <= EXACT
    assert "aten._trilinear.default" in used


def test_a_slope_is_drawn_by_torch_alone() -> None:
    """Whose functional form hands its backward pass other slopes than it drew."""
    slope = torch.ops.aten.rrelu_with_noise_functional
    with Decomposed() as mode:
        slope(X, torch.empty_like(X), 0.1, 0.3, True)
        assert not mode.used
        y = slope(X, torch.empty_like(X), 0.1, 0.3, False)[0]
    assert mode.used
    torch.testing.assert_close(y, F.leaky_relu(X, 0.2))


def test_batch_norm_keeps_torchs_own_running_variance() -> None:
    """The unbiased one: ONNX's operation has the other."""
    mean, variance = torch.zeros(3).double(), torch.ones(3).double()
    with Decomposed() as mode:
        F.batch_norm(X.double(), mean, variance, training=True)
        found = torch.ops.aten._native_batch_norm_legit_functional(
            X.double(), None, None, mean * 0, mean * 0 + 1, True, 0.1, 1e-5
        )
    assert "aten._native_batch_norm_legit_functional.default" in mode.used
    assert torch.allclose(found[4], 0.9 + 0.1 * X.double().var((0, 2, 3)), rtol=1e-12)
