"""Transposes of weighted operations against the dense Jacobian, for every operation and shape of operand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffebm_compiler.chip.emulate.transposes import transpose
from ffebm_compiler.ir import Kind, Operation
from ffebm_compiler.rules.weighted import CONVOLUTIONS, LINEAR, MATMUL, TRANSPOSED_CONVOLUTIONS, times


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def check(operation: Operation, x: Tensor, weight: Tensor) -> None:
    """``J^T e`` by the Jacobian's columns: finite differences of a linear map are exact, one unit vector at a time."""
    base = operation(torch.zeros_like(x), weight, None)
    e = normal(*base.shape, seed=7)
    unit = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    expected = torch.stack([(operation(u, weight, None) * e).sum() for u in unit]).reshape(x.shape)
    found = transpose(operation, e, weight, x)
    assert found.shape == x.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def convolution(kind: Kind, **options: Any) -> Operation:
    full: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    if kind in TRANSPOSED_CONVOLUTIONS.values():
        full["output_padding"] = 0
    return Operation(kind.name, getattr(F, kind.name), {**full, **options}, weighted=True, kind=kind)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"stride": 3, "groups": 2, "padding": 1},
        {"padding": "same"},
        {"padding": "same", "dilation": 2},
        {"padding": "valid"},
    ],
    ids=str,
)
def test_convolution(dimensions: int, batched: bool, options: dict[str, Any]) -> None:
    size = {1: (6,), 2: (6, 5), 3: (5, 4, 4)}[dimensions]
    x = normal(*((2,) if batched else ()), 2, *size)
    kernel = 3 if options.get("padding") == "same" else 2  # an even one can't be padded evenly
    weight = normal(4, 2 // options.get("groups", 1), *([kernel] * dimensions))
    if options.get("dilation") == 2 and dimensions == 3:
        options = {**options, "padding": options["padding"] if options["padding"] == "same" else 1}
    check(convolution(CONVOLUTIONS[dimensions], **options), x, weight)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2, "dilation": 2}],
    ids=str,
)
def test_transposed_convolution(dimensions: int, batched: bool, options: dict[str, Any]) -> None:
    size = {1: (5,), 2: (3, 4), 3: (2, 3, 2)}[dimensions]
    x = normal(*((2,) if batched else ()), 4, *size)
    weight = normal(4, 3, *([2] * dimensions))
    check(convolution(TRANSPOSED_CONVOLUTIONS[dimensions], **options), x, weight)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(4, 9), st.integers(4, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
def test_a_stride_that_leaves_a_remainder(
    h: int, w: int, kernel: int, stride: int, dilation: int, padding: int
) -> None:
    if dilation * (kernel - 1) + 1 > min(h, w):
        return
    operation = convolution(CONVOLUTIONS[2], stride=(stride, 2), padding=(padding, 1), dilation=dilation)
    check(operation, normal(1, 2, h, w), normal(2, 2, kernel, kernel))


PRODUCT = Operation("linear", F.linear, {}, weighted=True, kind=LINEAR)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
@pytest.mark.parametrize("outputs", [(4,), ()], ids=["matrix", "vector"])
def test_linear(shape: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    check(PRODUCT, normal(*shape), normal(*outputs, 5))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
@pytest.mark.parametrize("weight", [(5, 4), (5,), (2, 5, 4)], ids=["matrix", "vector", "batch"])
def test_product(shape: tuple[int, ...], weight: tuple[int, ...]) -> None:
    product = Operation("matmul", times, {"transposed": False}, weighted=True, kind=MATMUL)
    check(product, normal(*shape), normal(*weight))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_product_with_a_transposed_weight(shape: tuple[int, ...]) -> None:
    check(Operation("matmul", times, {"transposed": True}, weighted=True, kind=MATMUL), normal(*shape), normal(5, 4))
