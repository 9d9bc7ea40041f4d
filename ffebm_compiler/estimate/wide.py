"""Nudged phases of float16 blocks in float32.

The smallest number of float16 is 6e-8. A displacement decays from layer to layer by the reverse gains: below
that it would be zero, and every gradient with it. So the free states stay as they are, and what is small is computed
in float32. Gradients are returned in the types of what they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .estimator import Estimate, Estimator, FreePhase


def is_too_narrow(states: Mapping[str, Tensor]) -> bool:
    """Whether the states' type can't hold the displacements of a small nudge."""
    return any(v.dtype == torch.float16 for v in states.values())


def widely(estimator: Estimator, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
    """What an estimator finds in float32, mixed precision switched off."""
    device = next(iter(free.states.values())).device.type
    with torch.autocast(device, enabled=False):
        found = estimator(widened(free), {n: e.float() for n, e in errors.items()}, wanted)
    like = {**free.bound.inputs, **free.bound.weights}
    return Estimate({n: g.to(like[n].dtype) for n, g in found.gradients.items()}, found.relaxations)


def widened(free: FreePhase) -> FreePhase:
    """A free phase with its states, inputs and weights in float32."""
    bound = free.bound
    inputs, weights = ({n: _wide(v) for n, v in values.items()} for values in (bound.inputs, bound.weights))
    wide = replace(bound, inputs=inputs, weights=weights, fixed={})
    return replace(free, bound=wide, states={n: _wide(v) for n, v in free.states.items()})


def _wide(value: Any) -> Any:
    narrow = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if narrow else value
