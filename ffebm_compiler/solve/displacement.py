"""The nudged phase: how far does a nudge move the equilibrium?

At strength beta the nudged energy is ``E + beta <s_out, delta>``. What is relaxed is the displacement
``d = s(beta) - s*`` itself, so that nothing is lost to cancellation however small it is:

    d_l = sigma_l(a_l* + da_l) - sigma_l(a_l*)
    w_l da_l = w_l J_l d + sum_m w_m J_lm^T d_m + (curvature of the interaction) d - beta delta_l

with the interaction linearised at the free equilibrium: exact for couplings that are linear in the states; the
winners of a pooling maximum are held; a smooth activation contributes its second derivative. Sweeps run
backward, from the outputs where the nudge enters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .binding import States
from .differentiation import Linearised
from .relaxation import Relaxation, Tolerance, iterate


def displace(
    linear: Linearised, errors: Mapping[str, Tensor], beta: float, tolerance: Tolerance, tangent: bool = False
) -> tuple[States, Relaxation]:
    """The displacement of the equilibrium under the nudge ``beta <s_out, errors>``.

    Args:
        linear: the block at its free equilibrium.
        errors: the loss's gradient in each output state.
        beta: the nudge strength; with ``tangent`` the displacement is linear in it.
        tolerance: when to stop, relative to each state's own displacement.
        tangent: with sigma' instead of sigma's difference: the limit of a vanishing nudge.
    """
    bound, block = linear.bound, linear.bound.block
    w = bound.layer_weights
    d: States = {}

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        changes: dict[str, tuple[Tensor, Tensor]] = {}
        pulled: dict[str, list[Tensor]] = {s.name: [] for s in block.states}
        pushes = {s.name: linear.push(s, d) for s in block.states if not s.drive.is_linear}
        for state, (_, curvature) in ((block.state(n), p) for n, p in pushes.items()):
            for source, c in curvature.items():
                pulled[source].append(w[state.name] / w[source] * c)
        for state in reversed(block.states):
            n = state.name
            push = pushes[n][0] if n in pushes else linear.push(state, d)[0]
            parts = [*([] if push is None else [push]), *pulled[n]]
            if n in errors:
                parts.append(errors[n] * (-beta / w[n]))
            if not parts:
                new = torch.zeros_like(linear.states[n])
            else:
                da = sum(parts[1:], start=parts[0])
                new = (linear.tangents if tangent else linear.differences)[n](da)
            changes[n] = (new, new - d[n] if n in d else new)
            d[n] = new
            for source, back in linear.pull(state, new).items():
                pulled[source].append(w[n] / w[source] * back)
        return changes

    with torch.no_grad():
        if not block.has_feedback:
            sweep()
            return d, Relaxation(block.name, 1, 0.0, True)
        dtype = next(iter(linear.states.values())).dtype
        record = iterate(block.name, sweep, tolerance.nudged(dtype), tolerance.max_sweeps)
    return d, record
