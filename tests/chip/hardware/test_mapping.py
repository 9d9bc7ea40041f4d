"""Matrices of crossbars against the operations they stand for; tiles against the matrix they cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffebm_compiler.chip.hardware.mapping import Tiling, array_of, kind_on_arrays
from ffebm_compiler.ir import Array
from ffebm_compiler.rules.weighted import RULES

CASES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("linear", (4, 5), {}),
    ("linear", (5,), {}),
    ("matmul", (5, 4), {"transposed": False}),
    ("matmul", (4, 5), {"transposed": True}),
    ("matmul", (5,), {"transposed": False}),
    ("matmul", (3, 5, 4), {"transposed": False}),
    ("conv1d", (6, 2, 3), {"groups": 2}),
    ("conv2d", (6, 4, 3, 2), {"groups": 1}),
    ("conv2d", (6, 1, 3, 2), {"groups": 6}),
    ("conv3d", (3, 2, 2, 1, 3), {"groups": 1}),
    ("conv_transpose1d", (4, 3, 5), {"groups": 2}),
    ("conv_transpose2d", (4, 3, 3, 2), {"groups": 1}),
    ("conv_transpose3d", (4, 3, 2, 2, 1), {"groups": 4}),
]


def _weight(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def array(operation: str) -> Array:
    """Of the library's operation of that name."""
    kind = kind_on_arrays(operation)
    assert kind is not None
    found = array_of(kind)
    assert found is not None
    return found


def test_all_weighted_operations_are_mapped() -> None:
    assert all(array_of(kind) is not None for rule in RULES for kind in rule.forms)


@pytest.mark.parametrize(("operation", "shape", "options"), CASES)
def test_there_and_back(operation: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    weight = _weight(shape)
    matrix = array(operation).matrix(weight, options)
    assert matrix.dim() == 3
    assert torch.equal(array(operation).weight(matrix, shape, options), weight)
    if "transpose" not in operation:
        assert matrix.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize(
    ("operation", "function", "shape", "options"),
    [
        ("linear", lambda x, w: F.linear(x, w), (4, 5), {}),
        ("linear", lambda x, w: F.linear(x, w).unsqueeze(-1), (5,), {}),
        ("matmul", torch.matmul, (5, 4), {"transposed": False}),
        ("matmul", lambda x, w: x @ w.t(), (4, 5), {"transposed": True}),
    ],
)
def test_products(operation: str, function: Any, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    weight, x = _weight(shape), torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(x @ array(operation).matrix(weight, options)[0], function(x, weight))


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_is_its_unrolled_matrix(groups: int) -> None:
    weight, x = _weight((6, 4 // groups, 3, 2)), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    patches = F.unfold(x, (3, 2)).unflatten(1, (groups, -1))  # (batch, group, row, position)
    out = torch.einsum("bgrp,grc->bgcp", patches, array("conv2d").matrix(weight, {"groups": groups}))
    expected = F.conv2d(x, weight, groups=groups)
    torch.testing.assert_close(out.flatten(1, 2).reshape(expected.shape), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_sums_in_its_columns(groups: int) -> None:
    """``y_o(p) = sum over input channels and kernel positions of x_i(p - q) M_(i q) o``, on the image with zeros around
    it.
    """
    weight, x = _weight((4, 3, 3)), torch.randn(2, 4, 6, dtype=torch.float64)
    windows = F.pad(x, (2, 2)).unfold(-1, 3, 1).flip(-1)  # (batch, channel, position, kernel): x(p - q)
    rows = windows.permute(0, 2, 1, 3).reshape(2, 8, groups, -1)
    out = torch.einsum("bpgr,grc->bgcp", rows, array("conv_transpose1d").matrix(weight, {"groups": groups}))
    torch.testing.assert_close(out.flatten(1, 2), F.conv_transpose1d(x, weight, groups=groups))


TILINGS = st.builds(
    Tiling, st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 10), st.integers(1, 10)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tiling=TILINGS)
def test_tiles_cover_the_matrix_once(tiling: Tiling) -> None:
    matrix = torch.arange(2.0 * tiling.used).reshape(2, tiling.groups, tiling.rows, tiling.columns)
    count, largest = torch.zeros_like(matrix), []
    for group, rows, columns in tiling:
        count[:, group, rows, columns] += 1
        part = matrix[:, group, rows, columns]
        assert part.shape[1] <= tiling.tile_rows
        assert part.shape[2] <= tiling.tile_columns
        largest.append(part.amax((1, 2)))
    assert (count == 1).all()
    assert len(largest) == tiling.tiles
    assert 0 < tiling.utilisation <= 1
    blocks = tiling.blocks(matrix)
    assert torch.equal(tiling.joined(blocks), matrix)
    per_tile = blocks.amax((-3, -1))
    assert per_tile.shape[1:] == tiling.shape
    assert torch.equal(per_tile.flatten(1), torch.stack(largest, 1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tiling=TILINGS)
def test_a_number_a_tile_reaches_its_devices(tiling: Tiling) -> None:
    numbers = torch.arange(float(tiling.tiles)).reshape(tiling.shape)
    spread = tiling.spread(numbers).expand(tiling.groups, tiling.rows, tiling.columns)
    for number, tile in zip(numbers.flatten(), tiling):
        assert (spread[tile] == number).all()


def test_utilisation() -> None:
    tiling = Tiling(1, 300, 100, 256, 128)
    assert (tiling.tiles, tiling.row_tiles, tiling.column_tiles) == (2, 2, 1)
    assert tiling.utilisation == 300 * 100 / (2 * 256 * 128)
