"""A relaxation that goes round in a cycle is seen to have stalled, however long the cycle is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ffebm_compiler.solve.iteration import PATIENCE, iterate


def settle(residuals: Iterator[float], until_stalled: bool = True) -> tuple[int, bool]:
    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        return {"s": (torch.ones(1), torch.tensor([next(residuals)]))}

    record = iterate("block", sweep, 1e-6, 200, until_stalled)
    return record.sweeps, record.converged


def falling_to(cycle: list[float]) -> Iterator[float]:
    yield from (1.0, 0.1, 0.02)
    while True:
        yield from cycle


@pytest.mark.parametrize("cycle", [[0.01], [0.01, 0.004], [0.004, 0.01, 0.007], [0.01, 0.01, 0.003, 0.02]])
def test_a_cycle_stalls_within_its_length_and_the_patience(cycle: list[float]) -> None:
    sweeps, converged = settle(falling_to(cycle))
    assert not converged
    assert sweeps <= 3 + len(cycle) + PATIENCE


def test_slow_convergence_is_no_stall() -> None:
    residuals = (0.5 * 0.9**k for k in range(1000))
    sweeps, converged = settle(residuals)
    assert converged
    assert sweeps > 100


def test_without_maxima_nothing_stalls() -> None:
    assert settle(falling_to([0.01]), until_stalled=False) == (200, False)
