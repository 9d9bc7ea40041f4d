"""What to say of a relaxation that did not converge: which block, how far it came, what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..ir import EnergyBlock
from ..solve import Relaxation


def convergence_message(
    relaxation: Relaxation,
    block: EnergyBlock,
    phase: str,
    labels: Mapping[str, str],
    weights: Mapping[str, Tensor],
    loop_gain: float | None,
) -> str:
    """One sentence of what happened, one of what to do, in the user's layer names."""
    first, last = (labels[s.name] for s in (block.states[0], block.states[-1]))
    place = f"{block.name} ({first} … {last})"
    if math.isfinite(relaxation.residual):
        what = f"did not converge in its {phase}: residual {relaxation.residual:.1e} after {relaxation.sweeps} sweeps"
        return f"{place} {what}. Raise max_sweeps=, loosen tolerance=, or lower loop_gain=."
    unless = "If the loss and its gradient are finite: " if phase == "nudged phase" else ""
    return f"{place} diverged in its {phase} after {relaxation.sweeps} sweeps. {unless}{_remedy(weights, loop_gain)}"


def _remedy(weights: Mapping[str, Tensor], loop_gain: float | None) -> str:
    bad = [path for path, w in weights.items() if not bool(torch.isfinite(w).all())]
    if bad:
        return f"The weights {', '.join(bad)} are not finite."
    if loop_gain is None:
        return "Bound the feedback with loop_gain= (None is the paper's unit feedback), or lower block_size=."
    return "Lower loop_gain=, or block_size=."
