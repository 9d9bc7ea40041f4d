"""A relaxation that goes round in a cycle is seen to have stalled, however long the cycle is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ffebm_compiler.solve.iteration import PATIENCE, iterate

EPS = torch.finfo(torch.float32).eps


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


def round_trip(states: list[float]) -> tuple[int, bool, float]:
    """Sweeps that lead through some states and back to the first, in float32, to a tolerance of eight roundings."""
    k = 0

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        nonlocal k
        before, k = torch.tensor([states[k % len(states)]]), k + 1
        new = torch.tensor([states[k % len(states)]])
        return {"s": (new, (new - before).abs())}

    record = iterate("block", sweep, 8 * EPS, 50)
    return record.sweeps, record.converged, record.residual


def test_roundings_that_go_back_and_forth_have_settled() -> None:
    sweeps, converged, residual = round_trip([1.0, 1.0 + EPS])
    assert converged
    assert residual == EPS
    assert sweeps <= 4


def test_what_goes_back_and_forth_by_more_than_roundings_has_not() -> None:
    assert not round_trip([1.0, 1.0 + 4 * EPS])[1]


def test_roundings_that_lead_on_have_not_settled() -> None:
    assert not round_trip([1.0 + k * EPS for k in range(100)])[1]
