"""From two displacements to gradients: the contrast of equilibrium propagation.

With states ``s* + d1`` and ``s* + d2`` at nudges beta1 and beta2,

    [dE/dtheta(s* + d1) - dE/dtheta(s* + d2)] / (beta1 - beta2)
        = - d/dtheta sum_m w_m ( <D_m, f_m(s* + h)> + <s_m* + h_m, J_m D> )

with ``D = (d1 - d2) / (beta1 - beta2)`` and the mean ``h = (d1 + d2) / 2``.
It holds exactly for a bilinear interaction (winners held), and
without the difference of two nearly equal numbers. The same formula with x in place of theta is the error
for the digital part upstream. Source: Scellier & Bengio 2017 (contrast); Laborieux et al. 2021 (centered).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..solve import Gradients, Linearised, States
from ..solve.iteration import peak


def contrast(linear: Linearised, difference: States, mean: States, scale: float = 1.0) -> Gradients:
    """The gradient estimate from the rate of displacement ``difference`` and the offset ``mean``.

    Args:
        linear: the block at its free equilibrium, with what the gradient is wanted in; its graph is used up.
        difference: D, by state.
        mean: h, by state; empty for zero.
        scale: of D.
    """
    offset = {} if not mean or _is_rounding(mean, linear.states) else mean
    return linear.contrast(difference, offset, scale)


def _is_rounding(mean: States, states: Mapping[str, Tensor]) -> bool:
    """Whether the offset is below the rounding of every state, as it is for a tiny centered nudge."""
    below = [peak(h) <= torch.finfo(h.dtype).eps * peak(states[n]) for n, h in mean.items() if h.numel()]
    return bool(torch.stack(below).all()) if below else True
