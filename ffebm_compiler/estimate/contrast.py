"""From two displacements to gradients: the contrast of equilibrium propagation.

With states ``s* + d1`` and ``s* + d2`` at nudges beta1 and beta2,

    [dE/dtheta(s* + d1) - dE/dtheta(s* + d2)] / (beta1 - beta2)
        = - d/dtheta sum_m w_m ( <D_m, f_m(s* + h)> + <s_m* + h_m, J_m D> )

with ``D = (d1 - d2) / (beta1 - beta2)`` and the mean ``h = (d1 + d2) / 2``: for a bilinear interaction (winners held) exactly,
and without the difference of two nearly equal numbers. The same formula with x in place of theta is the error
for the digital part upstream. Source: Scellier & Bengio 2017 (contrast); Laborieux et al. 2021 (centered).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..ir import State
from ..solve import Linearisation, States
from ..solve.relaxation import peak

Gradients = dict[str, Tensor]
"""By the name of an input, or the path of a weight."""


def contrast(linear: Linearisation, difference: States, mean: States) -> Gradients:
    """The gradient estimate from the rate of displacement ``difference`` and the offset ``mean``.

    Args:
        linear: the block at its free equilibrium, with leaves for what the gradient is wanted in; its graph is used up.
        difference: D, by state.
        mean: h, by state; empty for zero.
    """
    mean = {} if _is_rounding(mean, linear.states) else mean
    bound = linear.bound
    with torch.enable_grad():
        terms = [bound.layer_weights[s.name] * _directional(linear, s, difference, mean) for s in bound.block.states]
        return gradients_of(-torch.stack(terms).sum(), linear.leaves)


def _directional(linear: Linearisation, state: State, difference: States, mean: States) -> Tensor:
    """``<D_m, f_m(s* + h)> + <s_m* + h_m, J_m D>`` of one state, as a function of weights and inputs."""
    drive = linear.drives[state.name]
    term = (difference[state.name] * drive.f).sum()
    back = dict(drive.pulled)
    if mean and drive.sources:
        offset = linear.transpose(state, mean[state.name])
        back = {n: b + offset[n] for n, b in back.items()}
        term = term + sum((b * mean[n]).sum() for n, b in linear.transpose(state, difference[state.name]).items())
    return term + sum((b * difference[n]).sum() for n, b in back.items())


def _is_rounding(mean: States, states: Mapping[str, Tensor]) -> bool:
    """Whether the offset is below the rounding of every state, as it is for a tiny centered nudge."""
    below = [peak(h) <= torch.finfo(h.dtype).eps * peak(states[n]) for n, h in mean.items() if h.numel()]
    return bool(torch.stack(below).all()) if below else True


def gradients_of(scalar: Tensor, leaves: Mapping[str, Tensor]) -> Gradients:
    """The gradient of a scalar in each leaf, zero where it does not depend on it."""
    if not leaves:
        return {}
    if not scalar.requires_grad:
        return {n: torch.zeros_like(v) for n, v in leaves.items()}
    found = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
    return {
        n: torch.zeros_like(v) if g is None else g.detach() for (n, v), g in zip(leaves.items(), found, strict=True)
    }
