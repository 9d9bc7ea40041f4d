"""The nudged equilibrium itself, as a circuit finds it: every state relaxes, and pooling winners may change."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..solve import Relaxation, States
from ..solve.iteration import iterate
from ..solve.tolerance import coarsest
from .estimator import FreePhase


def nudged_equilibrium(free: FreePhase, errors: Mapping[str, Tensor], beta: float) -> tuple[States, Relaxation]:
    """Relaxes ``E + beta <s_out, errors>`` from the free equilibrium, in backward sweeps from the outputs.

    s_l = sigma_l(f_l + sum_m (w_m / w_l) J_lm^T s_m - beta delta_l / w_l)
    """
    interaction = free.differentiation.interaction(free.bound)
    bound, block = interaction.bound, free.bound.block
    states = {k: v.detach() for k, v in free.states.items()}

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        leaves = {k: interaction.leaf(v) for k, v in states.items()}
        drives = {s.name: interaction.drive(s, leaves) for s in block.states}
        changes: dict[str, tuple[Tensor, Tensor]] = {}
        feedback: dict[str, Tensor] = {}
        for state in reversed(block.states):
            n = state.name
            a = drives[n].f.detach()
            if n in feedback:
                a = a + feedback[n] / bound.layer_weights[n]
            if n in errors:
                a = a - beta / bound.layer_weights[n] * errors[n]
            new = state.potential.activation(a)
            changes[n] = (new, new - states[n])
            states[n] = new
            for source, back in interaction.pull(state, drives[n], bound.layer_weights[n] * new).items():
                feedback[source] = feedback[source] + back if source in feedback else back
        return changes

    with torch.no_grad():
        record = iterate(block.name, sweep, free.tolerance.of(coarsest(states)), free.tolerance.max_sweeps)
    return states, record
