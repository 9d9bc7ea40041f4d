"""From two displacements to gradients: the contrast of equilibrium propagation.

With states ``s* + d1`` and ``s* + d2`` at nudges beta1 and beta2,

    [dE/dtheta(s* + d1) - dE/dtheta(s* + d2)] / (beta1 - beta2)
        = - d/dtheta sum_m w_m ( <D_m, f_m(s* + h)> + <s_m* + h_m, J_m D> )

with ``D = (d1 - d2) / (beta1 - beta2)`` and the mean ``h = (d1 + d2) / 2``: for a bilinear interaction (winners held) exactly,
and without the difference of two nearly equal numbers. The same formula with x in place of theta is the error
for the digital part upstream. Source: Scellier & Bengio 2017 (contrast); Laborieux et al. 2021 (centered).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..solve import BoundBlock, States
from ..solve.relaxation import peak

Gradients = dict[str, Tensor]
"""By the name of an input, or the path of a weight."""


def contrast(
    bound: BoundBlock, states: Mapping[str, Tensor], difference: States, mean: States, wanted: Sequence[str]
) -> Gradients:
    """The gradient estimate from the rate of displacement ``difference`` and the offset ``mean``.

    Args:
        bound: the block.
        states: the free equilibrium.
        difference: D, by state.
        mean: h, by state; empty for zero.
        wanted: names of inputs and paths of weights.
    """
    mean = {} if _is_rounding(mean, states) else mean
    with torch.enable_grad():
        bound, leaves = with_leaves(bound, wanted)
        total: Tensor | None = None
        for state in bound.block.states:
            free = {n: states[n].detach().requires_grad_() for n in state.drive.sources}
            f = bound.drive(state, free)
            term = (difference[state.name] * f).sum()
            if free:
                sources = list(free.values())
                s_m = states[state.name] + mean[state.name] if mean else states[state.name]
                back = torch.autograd.grad(f, sources, s_m, create_graph=True)
                term = term + sum((b * difference[n]).sum() for n, b in zip(free, back, strict=True))
                if mean:
                    back = torch.autograd.grad(f, sources, difference[state.name], create_graph=True)
                    term = term + sum((b * mean[n]).sum() for n, b in zip(free, back, strict=True))
            term = bound.layer_weights[state.name] * term
            total = term if total is None else total + term
        assert total is not None
        return gradients_of(-total, leaves)


def _is_rounding(mean: States, states: Mapping[str, Tensor]) -> bool:
    """Whether the offset is below the rounding of every state, as it is for a tiny centered nudge."""
    below = [peak(h) <= torch.finfo(h.dtype).eps * peak(states[n]) for n, h in mean.items() if h.numel()]
    return bool(torch.stack(below).all()) if below else True


def with_leaves(bound: BoundBlock, wanted: Sequence[str]) -> tuple[BoundBlock, dict[str, Tensor]]:
    """The block with fresh leaves in place of the wanted inputs and weights, everything else detached."""
    leaves = {n: (bound.inputs[n] if n in bound.inputs else bound.weights[n]).detach().requires_grad_() for n in wanted}
    inputs = {k: leaves.get(k, v.detach() if isinstance(v, Tensor) else v) for k, v in bound.inputs.items()}
    weights = {k: leaves.get(k, v.detach()) for k, v in bound.weights.items()}
    return BoundBlock(bound.block, inputs, weights, bound.layer_weights), leaves


def gradients_of(scalar: Tensor, leaves: Mapping[str, Tensor]) -> Gradients:
    """The gradient of a scalar in each leaf, zero where it does not depend on it."""
    if not leaves:
        return {}
    if not scalar.requires_grad:
        return {n: torch.zeros_like(v) for n, v in leaves.items()}
    found = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g.detach() for (n, v), g in zip(leaves.items(), found, strict=True)}
