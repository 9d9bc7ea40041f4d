"""Wire resistance against the nodal equations of the whole crossbar: 2 n m nodes, solved densely."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ffebm_compiler.chip.hardware.lines import pair_transfer, shared_wire, transfer
from ffebm_compiler.chip.hardware.mapping import Tiling


def nodal(conductance: Tensor, r: float, sensed: str = "columns") -> Tensor:
    """The current at each sensed end by the voltage at each driven end: Kirchhoff's current law at every crossing."""
    n, m = conductance.shape
    row, column = np.arange(n * m).reshape(n, m), n * m + np.arange(n * m).reshape(n, m)
    y = np.zeros((2 * n * m, 2 * n * m))

    def connect(a: int, b: int, g: float) -> None:
        y[a, a] += g
        y[b, b] += g
        y[a, b] -= g
        y[b, a] -= g

    for k in range(n):
        for j in range(m):
            connect(row[k, j], column[k, j], float(conductance[k, j]))
            if j:
                connect(row[k, j], row[k, j - 1], 1 / r)
            if k:
                connect(column[k, j], column[k - 1, j], 1 / r)
    ends = {"rows": row[:, 0], "columns": column[0]}
    for end in ends.values():  # to the driver, and to the virtual ground
        y[end, end] += 1 / r
    driven = ends["rows" if sensed == "columns" else "columns"]
    current = np.zeros((2 * n * m, len(driven)))
    current[driven, np.arange(len(driven))] = 1 / r
    voltage = np.linalg.solve(y, current)
    return torch.from_numpy(voltage[ends[sensed]].T / r)  # (driven, sensed)


def _random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64) * 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 1), (4, 7), (16, 16)])
def test_error_is_of_second_order(shape: tuple[int, int]) -> None:
    conductance = _random(*shape)
    errors = [float((transfer(conductance, r) - nodal(conductance, r)).norm()) for r in (1.0, 2.0)]
    scale = float(conductance.norm())
    if shape == (1, 1):  # three resistors in series: exact
        assert max(errors) < 1e-12 * scale
    else:
        assert errors[1] / errors[0] == pytest.approx(4, rel=0.1)
    first_order = float((conductance - nodal(conductance, 1.0)).norm())
    assert errors[0] < 0.1 * first_order


@pytest.mark.parametrize(
    ("r", "lost", "device", "total"),
    [(4.0, 0.036, 3e-4, 1e-5), (10.0, 0.086, 2e-3, 1e-4), (25.0, 0.189, 8e-3, 3e-4), (50.0, 0.316, 0.025, 1e-3)],
)
def test_size_of_the_error(r: float, lost: float, device: float, total: float) -> None:
    """The table of docs/devices.md: the part of the current that is lost, the rms error of a device and that of the
    sum.
    """
    conductance = _random(16, 16)
    exact, ours = nodal(conductance, r), transfer(conductance, r)
    assert float(1 - exact.sum() / conductance.sum()) == pytest.approx(lost, abs=5e-4)
    assert device / 2 < float((ours - exact).norm() / exact.norm()) < device
    assert float(ours.sum() / exact.sum()) == pytest.approx(1, abs=total)


def test_reverse_is_the_transpose() -> None:
    conductance, r = _random(5, 8), 3.0
    torch.testing.assert_close(nodal(conductance, r, sensed="rows").T, nodal(conductance, r), rtol=1e-10, atol=0)
    torch.testing.assert_close(transfer(conductance.T, r).T, transfer(conductance, r), rtol=1e-14, atol=0)


def test_shared_wire_is_the_minimum_of_distances() -> None:
    g = _random(6)
    expected = [sum((min(a, b) + 1) * g[b] for b in range(6)) for a in range(6)]
    torch.testing.assert_close(shared_wire(g, 0), torch.stack(expected))


def test_pairs_alternate_and_tiles_are_apart() -> None:
    pair, r = _random(2, 2, 5, 7), 4.0
    tiling = Tiling(2, 5, 7, 3, 4)
    result = pair_transfer(pair, r, tiling)
    for tile in tiling:
        positive, negative = pair[0][tile], pair[1][tile]
        lines = torch.stack((positive, negative), -1).flatten(1)  # + - + - ...
        exact = nodal(lines, r)
        expected = torch.stack((exact[:, ::2], exact[:, 1::2]))
        found = torch.stack((result[0][tile], result[1][tile]))
        loss = lines - exact
        assert float((found - expected).norm()) < 0.02 * float(loss.norm())


def test_no_resistance_changes_nothing() -> None:
    pair = _random(2, 1, 3, 3)
    assert pair_transfer(pair, 0.0, Tiling(1, 3, 3, 8, 8)) is pair
