"""A block's printed energy against its solver in float64, at an equilibrium of twelve digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ffebm_compiler.passes import Verification, verify
from ffebm_compiler.solve import AUTOMATIC, BoundBlock, Differentiation, Tolerance, relax


def verified_in_float64(
    bound: BoundBlock, labels: Mapping[str, str], max_sweeps: int = 1000, how: Differentiation = AUTOMATIC
) -> Verification:
    """The residuals at the equilibrium and of the stationarity equations; raises as :func:`verify` does."""
    wide = BoundBlock(bound.block, _wide(bound.inputs), _wide(bound.weights), bound.layer_weights).detached()
    found = relax(wide, Tolerance(1e-12, max_sweeps), differentiation=how)
    held = wide.holding(found.winners)
    equations = verify(held, found.states, labels, how)
    return replace(verify(held, found.states, labels, how, found.relaxation), stationarity=equations.stationarity)


def _wide(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.detach().double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in values.items()}
