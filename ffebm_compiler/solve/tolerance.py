"""How close to its equilibrium a relaxation has to come, and in how many sweeps at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """When a relaxation stops.

    Attributes:
        residual: the relative error at which it has converged; None chooses by the type's precision.
        max_sweeps: the largest number of sweeps.
    """

    residual: float | None = None
    max_sweeps: int = 200

    def of(self, dtype: torch.dtype) -> float:
        """The tolerance of a free phase; by default some 30 roundings of the type, below which a residual is noise, and at most a few percent."""
        return min(max(32 * torch.finfo(dtype).eps, 1e-13), 0.03) if self.residual is None else self.residual

    def nudged(self, dtype: torch.dtype) -> float:
        """The tolerance of a nudged phase, where the displacement alone is relaxed: a gradient needs fewer digits than a state."""
        return min(100 * self.of(dtype), max(self.of(dtype), 1e-2))


def coarsest(states: Mapping[str, Tensor]) -> torch.dtype:
    """The type with the largest roundings: in mixed precision the states of one block differ, and no residual falls below those of any."""
    return max((s.dtype for s in states.values()), key=lambda dtype: torch.finfo(dtype).eps)
