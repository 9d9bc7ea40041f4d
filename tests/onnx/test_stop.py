"""The stop of a loop, in tensors, against the executor's own: the same sweeps and the same error for any sequence of
residuals.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffebm_compiler.onnx.stop import Stop, advance, begin, residual_of
from ffebm_compiler.solve.iteration import Relaxation, iterate

positive = st.floats(1e-7, 1e3).map(lambda r: float(torch.tensor(r)))  # a residual is computed in float32
falling = st.tuples(positive, st.floats(0.01, 0.999), st.integers(1, 40)).map(
    lambda t: torch.tensor([t[0] * t[1] ** k for k in range(t[2])]).tolist()
)
residuals = st.one_of(
    falling,
    st.lists(positive, min_size=1, max_size=40),
    st.lists(
        st.sampled_from(torch.tensor([0.0, 1e-6, 1e-3, 0.9, 1.0, 2.0, math.inf, math.nan]).tolist()),
        min_size=1,
        max_size=40,
    ),
    st.tuples(falling, st.lists(positive, min_size=1, max_size=3)).map(lambda t: (t[0] + 10 * t[1])[:60]),
)


def executor(
    sequence: list[float],
    tolerance: float,
    max_sweeps: int,
    until_stalled: bool,
    contraction: float | None,
    soonest: int,
) -> Relaxation:
    """The executor's loop, on states whose relative changes are these."""
    following = iter(sequence)

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        change = next(following)
        new = torch.tensor([1.0 if math.isfinite(change) else math.nan])
        return {"s": (new, torch.tensor([change if math.isfinite(change) else 0.0]))}

    return iterate("block", sweep, tolerance, max_sweeps, until_stalled, contraction, soonest)


def one_state(change: float) -> Tensor:
    """The residual of a state of size 1 that has changed by so much."""
    return torch.tensor(change if math.isfinite(change) else math.inf).double()


def residual(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    return float(residual_of(before, after))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    residuals,
    st.floats(1e-7, 0.5),
    st.integers(1, 50),
    st.booleans(),
    st.none() | st.floats(1e-6, 0.9),
    st.integers(1, 4),
)
def test_it_stops_at_the_same_sweep(
    sequence: list[float],
    tolerance: float,
    max_sweeps: int,
    until_stalled: bool,
    contraction: float | None,
    soonest: int,
) -> None:
    most = min(max_sweeps, len(sequence))
    expected = executor(sequence, tolerance, most, until_stalled, contraction, soonest)
    progress, stop = begin(), Stop.of(tolerance, most, contraction, soonest)
    for change in sequence:
        progress = advance(progress, one_state(change), stop, until_stalled)
        if not progress.running:
            break
    assert int(progress.sweeps) == expected.sweeps
    assert bool(progress.converged) == expected.converged
    assert float(progress.error) == expected.residual


def test_the_residual_is_the_largest_relative_change_of_a_state() -> None:
    before = {"a": torch.tensor([1.0, -2.0]), "b": torch.zeros(1, 3)}
    after = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([[0.0, 1e-3, 9e-4]])}
    assert residual(before, after) == 1.0  # b: from nothing to something
    assert residual({"a": before["a"]}, {"a": after["a"]}) == 0.5
    assert residual(after, after) == 0.0
    assert residual({"b": before["b"]}, {"b": before["b"]}) == 0.0


@pytest.mark.parametrize(("value", "place"), itertools.product([math.nan, math.inf, -math.inf, 2e30], [0, 3]))
def test_a_state_without_bounds_or_value_has_no_finite_residual(value: float, place: int) -> None:
    after = torch.ones(4)
    after[place] = value
    assert not math.isfinite(residual({"s": torch.ones(4)}, {"s": after}))
