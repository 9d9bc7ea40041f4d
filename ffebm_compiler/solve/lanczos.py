"""The largest singular value of a linear map, by Lanczos iteration on ``J^T J``.

    T = V^T (J^T J) V,     |J|^2 >= theta = the largest eigenvalue of T

with V an orthonormal basis of the Krylov space of a random start: a bound from below, which converges much faster than the power iteration's
(Golub & Van Loan, section 10.1). Of a start without preference the bound falls short by the part epsilon of itself with a probability of at
most ``1.65 sqrt(n) exp(-sqrt(epsilon) (2 k - 1))`` after k steps, whatever the spectrum (Kuczynski & Wozniakowski 1992). Residuals say less: a
cluster below the largest value has small ones as well. So it stops once theta has stood still for two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

STEPS = 64
"""At most so many steps; most maps take about twelve."""

SETTLED = 1e-4
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
    basis = (start / start.norm().clamp(min=kind.tiny)).reshape(1, -1)  # (steps so far, size)
    diagonal: list[float] = []
    beside: list[float] = []
    values: list[float] = []
    while True:
        image = square(basis[-1].view(start.shape)).reshape(-1)
        diagonal.append(float(image @ basis[-1]))
        if not np.isfinite(diagonal[-1]):
            return float("nan"), start
        for _ in range(2):  # twice is enough
            image = image - (basis @ image) @ basis
        eigenvalues, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        values.append(float(eigenvalues[-1]))
        length = float(image.norm())
        if len(values) == steps or values[-1] <= 0 or length <= 10 * kind.eps * values[-1] or _stands(values):
            break
        beside.append(length)
        basis = torch.cat([basis, (image / length)[None]])
    direction = torch.as_tensor(vectors[:, -1]).to(basis) @ basis
    return max(values[-1], 0.0) ** 0.5, direction.view(start.shape)


def _stands(values: Sequence[float]) -> bool:
    return len(values) > 2 and values[-1] - values[-3] <= SETTLED * values[-1]
