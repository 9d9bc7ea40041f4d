"""Wire resistance of a crossbar, to first order.

Geometry. Row k is driven at the end next to column 0, column j ends in a virtual ground next to row 0, and every wire
has the resistance r from one device to the next and from its first device to its end. (Which end of the array row 0
lies at is a matter of numbering.)

At r = 0 device (k, j) carries ``G_kj v_k``. These currents lower the row's voltage at (k, j) by ``r sum_j' d(j, j')
G_kj' v_k`` and raise the column's by ``r sum_i d(k, i) G_ij v_i``, where ``d(a, b) = min(a, b) + 1`` segments are
shared by the ways of two devices to the wire's end. The response of output j to input k is therefore ``T_kj = G_kj (1 -
e_kj) + O(r^2)`` with

    e_kj = r ( sum_j' d(j, j') G_kj' + sum_i d(k, i) G_ij )          and here          T_kj = G_kj / (1 + e_kj)

which is never negative, and exact for a single device. T is symmetric in the roles of rows and columns, as reciprocity
demands: driven at the column ends and sensed at the row ends, the array is the transpose of T.

The error is of the order of ``e^2``: where the wires take a twelfth of the current a device's T is wrong by 0.1 %
(rms), at a third of the current by 2 %, whatever the array's size (docs/devices.md). A device that is off still passes
a little through its neighbours, which this leaves out: relative to a device's own small conductance the error is
larger.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mapping import Tiling


def transfer(conductance: Tensor, resistance: float) -> Tensor:
    """``T`` (S) from row to column of crossbars ``(..., rows, columns)``, with ``resistance`` (Ohm) a segment."""
    along_row = shared_wire(conductance, -1)
    along_column = shared_wire(conductance, -2)
    return conductance / (1 + resistance * (along_row + along_column))


def shared_wire(conductance: Tensor, dim: int) -> Tensor:
    """``sum_b (min(a, b) + 1) G_b`` along a dimension: the sum over ``a' <= a`` of what lies at ``a'`` and beyond."""
    beyond = conductance.flip(dim).cumsum(dim).flip(dim)
    return beyond.cumsum(dim)


def pair_transfer(pair: Tensor, resistance: float, tiling: Tiling) -> Tensor:
    """T of pairs ``(2, groups, rows, columns)`` in tiles whose column lines are positive and negative in turn."""
    if resistance == 0:
        return pair
    blocks = tiling.blocks(pair).transpose(-3, -2)  # (2, groups, row tile, column tile, height, width)
    lines = torch.stack((blocks[0], blocks[1]), -1).flatten(-2)
    sensed = transfer(lines, resistance).unflatten(-1, (-1, 2))
    return tiling.joined(torch.stack((sensed[..., 0], sensed[..., 1])).transpose(-3, -2))
