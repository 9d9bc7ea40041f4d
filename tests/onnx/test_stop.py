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

from ffebm_compiler.onnx.stop import Change, Stop, advance, begin
from ffebm_compiler.solve import Contraction
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
    sequence: list[float], tolerance: float, max_sweeps: int, until_stalled: bool, contraction: Contraction | None
) -> Relaxation:
    """The executor's loop, on states whose relative changes are these."""
    following = iter(sequence)

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        change = next(following)
        new = torch.tensor([1.0 if math.isfinite(change) else math.nan])
        return {"s": (new, torch.tensor([change if math.isfinite(change) else 0.0]))}

    return iterate("block", sweep, tolerance, max_sweeps, until_stalled, contraction)


def one_state(change: float) -> Change:
    """A state of size 1 that has changed by so much."""
    finite = math.isfinite(change)
    size, moved = torch.tensor([1.0 if finite else math.inf]), torch.tensor([change if finite else 0.0])
    return Change(size, moved, size, moved)


def residual(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    return float(Change.between(before, after).residual)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(residuals, st.floats(1e-7, 0.5), st.integers(1, 50), st.booleans(), st.none() | st.floats(1e-6, 0.9))
def test_it_stops_at_the_same_sweep(
    sequence: list[float], tolerance: float, max_sweeps: int, until_stalled: bool, contraction: float | None
) -> None:
    most = min(max_sweeps, len(sequence))
    certified = None if contraction is None else Contraction(("s",), {}, {}, contraction)
    expected = executor(sequence, tolerance, most, until_stalled, certified)
    progress, stop = begin(), Stop.of(tolerance, most, certified)
    for change in sequence:
        progress = advance(progress, one_state(change), stop, until_stalled)
        if not progress.running:
            break
    assert int(progress.sweeps) == expected.sweeps
    assert bool(progress.converged) == expected.converged
    assert float(progress.error) == expected.residual


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.lists(st.tuples(*[st.floats(0.01, 100.0)] * 3, st.floats(1e-5, 1e-1)), min_size=1, max_size=6),
    st.tuples(*[st.floats(0.0, 3.0)] * 4),
    st.floats(1e-5, 1e-1),
)
def test_what_changes_bound_counts_as_it_does_in_the_executor(
    sweeps: list[tuple[float, float, float, float]], bounds: tuple[float, float, float, float], tolerance: float
) -> None:
    """Three states in a chain, with bounds that one residual does not tell."""
    b, c, d, e = (v / 8 for v in bounds)  # b d + c e below 1: there is a remainder
    tolerance *= 1.0123  # the executor divides in double precision, a graph in single: no ties
    pairs = {("a", "b"): b, ("b", "a"): d, ("b", "c"): c, ("c", "b"): e}
    certified = Contraction(("a", "b", "c"), {}, pairs, 0.01)
    following = iter(
        [{n: (v, q * r) for n, v, q in zip("abc", (x, y, z), (1.0, 0.5, 0.1), strict=True)} for x, y, z, r in sweeps]
    )

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        return {n: (torch.tensor([v]), torch.tensor([m])) for n, (v, m) in next(following).items()}

    expected = iterate("block", sweep, tolerance, len(sweeps), contraction=certified)
    progress, stop = begin(), Stop.of(tolerance, len(sweeps), certified)
    for x, y, z, r in sweeps:
        sizes, moved = torch.tensor([x, y, z]), torch.tensor([r, 0.5 * r, 0.1 * r])
        progress = advance(progress, Change(sizes, moved, sizes, moved), stop, until_stalled=False)
        if not progress.running:
            break
    assert int(progress.sweeps) == expected.sweeps
    assert bool(progress.converged) == expected.converged
    assert float(progress.error) == pytest.approx(expected.residual, rel=1e-5)


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
