"""The largest singular value of a linear map, by Lanczos iteration on ``J^T J``.

    T = V^T (J^T J) V,     |J|^2 >= theta = the largest eigenvalue of T

with V a basis of the Krylov space of a random start, each vector orthogonal to the two before it: a bound from below, which converges much
faster than the power iteration's (Golub & Van Loan, section 10.1). Of a start without preference the bound falls short by the part epsilon of itself with a probability of at
most ``1.65 sqrt(n) exp(-sqrt(epsilon) (2 k - 1))`` after k steps, whatever the spectrum (Kuczynski & Wozniakowski 1992). Residuals say less: a
cluster below the largest value has small ones as well. So it stops once theta has stood still for two steps. In finite precision the basis
loses its orthogonality only towards directions that have converged, which adds copies of their values and moves none (Paige 1980): it is
not orthogonalised anew, which would take more time than the map does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 64
"""At most so many steps; most maps take about twelve."""

SETTLED = 1e-3
"""It ends once two steps in a row add less than this to the squared norm."""


def largest_singular_value(
    square: Callable[[Tensor], Tensor], start: Tensor, steps: int = STEPS
) -> tuple[float, Tensor]:
    """|J| and its leading direction; not finite where an image is not.

    Args:
        square: ``v -> J^T J v``.
        start: the first direction.
        steps: at most so many.
    """
    kind = torch.finfo(start.dtype)
    basis = [start / start.norm().clamp(min=kind.tiny)]
    diagonal: list[float] = []
    beside: list[float] = []
    values: list[float] = []
    while True:
        image = square(basis[-1])
        diagonal.append(float(torch.dot(image.flatten(), basis[-1].flatten())))
        if not np.isfinite(diagonal[-1]):
            return float("nan"), start
        image = torch.sub(image, basis[-1], alpha=diagonal[-1])
        if beside:
            image.sub_(basis[-2], alpha=beside[-1])
        values.append(float(np.linalg.eigvalsh(_matrix(diagonal, beside))[-1]))
        length = float(image.norm())
        if len(values) == steps or values[-1] <= 0 or length <= 10 * kind.eps * values[-1] or _stands(values):
            break
        beside.append(length)
        basis.append(image.div_(length))
    direction = torch.zeros_like(start)
    for part, v in zip(_leading(_matrix(diagonal, beside), values[-1]), basis, strict=True):
        direction.add_(v, alpha=part)
    return max(values[-1], 0.0) ** 0.5, direction / direction.norm().clamp(min=kind.tiny)


def _matrix(diagonal: Sequence[float], beside: Sequence[float]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    return found


def _leading(matrix: NDArray[np.float64], value: float) -> list[float]:
    """The eigenvector of a known eigenvalue, by inverse iteration: numpy's ``eigh`` keeps threads waiting for each other at this size."""
    shifted = matrix - (value + abs(value) * 1e-12) * np.eye(len(matrix))
    found: NDArray[Any] = np.ones(len(matrix))
    for _ in range(3 if value else 0):
        found = np.linalg.solve(shifted, found)
        found = found / np.linalg.norm(found)
    vector: list[float] = found.tolist()
    return vector


def _stands(values: Sequence[float]) -> bool:
    return len(values) > 2 and values[-1] - values[-3] <= SETTLED * values[-1]
