"""Weights as the matrices of crossbars, ``y_j = sum_i x_i M_ij``, and the cut of a matrix into tiles.

Rows are the inputs of an array and columns its outputs. A convolution is its unrolled matrix: a row for each input
channel and kernel position, a column for each output channel, applied at every position of the image. A transposed
convolution is the same on the image with zeros inserted, so that an output is still one column. Each group of a grouped
convolution is an array of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...ir import Array, Kind, Options
from ...rules import FORMS
from ...rules.weighted import CONVOLUTIONS, LINEAR, MATMUL, TRANSPOSED_CONVOLUTIONS


def array_of(kind: Kind) -> Array | None:
    """How the weights of a kind lie on an array, as views except of a transposed convolution; None where they don't."""
    return kind.array or _ARRAYS.get(kind)


def kind_on_arrays(name: str) -> Kind | None:
    """The kind of that name whose weights lie on arrays, as saved chips call it."""
    known = (kind for kind in (*_ARRAYS, *FORMS.operations) if array_of(kind) is not None)
    return next((kind for kind in known if kind.name == name), None)


# --- one pair of functions an operation ---------------------------------------------------------------


def _linear_matrix(weight: Tensor, options: Options) -> Tensor:
    return weight.reshape(1, -1, weight.shape[-1]).mT  # (out, in), or (in,) for a single output


def _linear_weight(matrix: Tensor, shape: tuple[int, ...], options: Options) -> Tensor:
    return matrix.mT.reshape(shape)


def _product_matrix(weight: Tensor, options: Options) -> Tensor:
    """A batch of matrices is an array each; a vector is one column."""
    turned = options.get("transposed", False)
    columns: Tensor = weight.unsqueeze(-1) if weight.dim() == 1 else weight.mT if turned else weight
    return columns.reshape(-1, *columns.shape[-2:])


def _product_weight(matrix: Tensor, shape: tuple[int, ...], options: Options) -> Tensor:
    return (matrix.mT if options.get("transposed", False) else matrix).reshape(shape)


def _convolution_matrix(weight: Tensor, options: Options) -> Tensor:
    groups = options.get("groups", 1)  # the weight is (out, in/groups, *kernel)
    return weight.reshape(groups, weight.shape[0] // groups, -1).mT


def _convolution_weight(matrix: Tensor, shape: tuple[int, ...], options: Options) -> Tensor:
    return matrix.mT.reshape(shape)


def _transposed_matrix(weight: Tensor, options: Options) -> Tensor:
    groups = options.get("groups", 1)  # the weight is (in, out/groups, *kernel)
    parts = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).mT
    return parts.reshape(groups, -1, weight.shape[1])  # rows: input channel, kernel position


def _transposed_weight(matrix: Tensor, shape: tuple[int, ...], options: Options) -> Tensor:
    return matrix.reshape(matrix.shape[0], -1, math.prod(shape[2:]), shape[1]).mT.reshape(shape)


def _bias_row(bias: Tensor, options: Options) -> Tensor:
    return bias.reshape(1, 1, -1)


def _bias_of_row(matrix: Tensor, shape: tuple[int, ...], options: Options) -> Tensor:
    return matrix.reshape(shape)


BIAS = Kind("bias", __name__)
"""One row, driven by a constant."""

_ARRAYS: Mapping[Kind, Array] = {
    BIAS: Array(_bias_row, _bias_of_row),
    LINEAR: Array(_linear_matrix, _linear_weight),
    MATMUL: Array(_product_matrix, _product_weight, ("transposed",)),
    **dict.fromkeys(CONVOLUTIONS.values(), Array(_convolution_matrix, _convolution_weight, ("groups",))),
    **dict.fromkeys(TRANSPOSED_CONVOLUTIONS.values(), Array(_transposed_matrix, _transposed_weight, ("groups",))),
}


# --- tiles --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiling:
    """A matrix ``(groups, rows, columns)`` cut into tiles from its first row and column; no two groups share a tile."""

    groups: int
    rows: int
    columns: int
    tile_rows: int
    tile_columns: int

    @property
    def row_tiles(self) -> int:
        """Tiles that the rows of a group are split over: their outputs are added."""
        return -(-self.rows // self.tile_rows)

    @property
    def column_tiles(self) -> int:
        """Tiles that the columns of a group are split over: they share their inputs."""
        return -(-self.columns // self.tile_columns)

    @property
    def tiles(self) -> int:
        return self.groups * self.row_tiles * self.column_tiles

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a tensor with one number a tile."""
        return self.groups, self.row_tiles, self.column_tiles

    @property
    def used(self) -> int:
        """Pairs of devices that hold a weight."""
        return self.groups * self.rows * self.columns

    @property
    def utilisation(self) -> float:
        """Used devices, relative to the devices of the tiles."""
        return self.used / max(1, self.tiles * self.tile_rows * self.tile_columns)

    def __iter__(self) -> Iterator[tuple[int, slice, slice]]:
        """Each tile as ``(group, rows, columns)``, which index the matrix."""
        for group in range(self.groups):
            for row in range(0, self.rows, self.tile_rows):
                for column in range(0, self.columns, self.tile_columns):
                    rows = slice(row, min(row + self.tile_rows, self.rows))
                    yield group, rows, slice(column, min(column + self.tile_columns, self.columns))

    def blocks(self, matrix: Tensor) -> Tensor:
        """``(..., rows, columns)`` as ``(..., row_tiles, height, column_tiles, width)``, zeros after its end."""
        height, width = self._extent
        below, right = self.row_tiles * height - self.rows, self.column_tiles * width - self.columns
        full = F.pad(matrix, (0, right, 0, below)) if below or right else matrix
        return full.reshape(*matrix.shape[:-2], self.row_tiles, height, self.column_tiles, width)

    def joined(self, blocks: Tensor) -> Tensor:
        """The inverse of :meth:`blocks`."""
        return blocks.flatten(-2).flatten(-3, -2)[..., : self.rows, : self.columns]

    def spread(self, per_tile: Tensor) -> Tensor:
        """``(..., row_tiles, column_tiles)`` as a tensor that broadcasts against the matrix."""
        height, width = self._extent
        rows = per_tile if self.row_tiles == 1 else per_tile.repeat_interleave(height, -2)[..., : self.rows, :]
        return rows if self.column_tiles == 1 else rows.repeat_interleave(width, -1)[..., : self.columns]

    @property
    def _extent(self) -> tuple[int, int]:
        """The part of a tile that is computed with: a small matrix is not filled up to a whole tile."""
        return min(self.tile_rows, self.rows), min(self.tile_columns, self.columns)
