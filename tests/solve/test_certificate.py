"""What a sweep leaves in the end, against errors that are swept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.solve.certificate import gauss_seidel


def matrix_of(edges: dict[tuple[int, int], float], size: int) -> np.ndarray:
    matrix = np.zeros((size, size))
    for (i, j), k in edges.items():
        matrix[i, j] = matrix[j, i] = k
    return matrix


@pytest.mark.parametrize(
    ("edges", "size", "expected"),
    [
        ({(0, 1): 0.1}, 2, 0.01),
        ({(0, 1): 0.1, (1, 2): 0.1}, 3, 0.02),  # a chain: the square of the largest eigenvalue
        ({(0, 1): 0.1, (1, 2): 0.1, (2, 3): 0.1, (0, 3): 0.1}, 4, 0.0625),  # a cycle in this order leaves more
        ({(0, 1): 0.1, (0, 2): 0.1, (1, 2): 0.1}, 3, 0.050717),
    ],
)
def test_the_contraction_of_a_sweep(edges: dict[tuple[int, int], float], size: int, expected: float) -> None:
    assert gauss_seidel(matrix_of(edges, size)) == pytest.approx(expected, rel=1e-4)


@given(st.integers(2, 7), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_sweeps_leave_that_part_of_an_error_in_either_order(size: int, seed: int) -> None:
    """The worst error is one without signs; a sweep forward, and one backward, of all states in turn."""
    generator = np.random.default_rng(seed)
    matrix = np.triu(generator.uniform(0, 0.8 / size, (size, size)) * (generator.random((size, size)) < 0.7), 1)
    matrix = matrix + matrix.T
    rho = gauss_seidel(matrix)
    for order in (list(range(size)), list(reversed(range(size)))):
        error, norms = np.ones(size), []
        for _ in range(40):
            for i in order:
                error[i] = matrix[i] @ error
            norms.append(error.max())
        assert norms[-1] <= norms[19] * rho**20 * 1.5
    assert rho >= matrix.max() ** 2 * (1 - 1e-9)  # no coupling is stronger than all of them together
