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

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .binding import States
from .differentiation import Linearised
from .refinement import Displacing, corrects_narrowly
from .relaxation import Relaxation, iterate
from .tolerance import Tolerance


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
    increments = linear.tangents if tangent else linear.differences
    nudge = {n: e * (-beta / bound.layer_weights[n]) for n, e in errors.items()}
    d: States = {}
    change: States = {}

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        parts: dict[str, list[Part]] = {s.name: [(1.0, nudge[s.name])] if s.name in nudge else [] for s in block.states}
        pushed = {s.name: linear.push(s, d) for s in block.states if not s.drive.is_linear}
        for m, (_, curvature) in pushed.items():
            for source, c in curvature.items():
                parts[source].append((bound.reverse_gain(source, m), c))
        for state in reversed(block.states):
            n = state.name
            push, _ = pushed[n] if n in pushed else linear.push(state, d)
            da = _total([*([] if push is None else [(1.0, push)]), *parts[n]])
            new = torch.zeros_like(linear.states[n]) if da is None else increments[n](da)
            if n in d:
                change[n] = torch.sub(new, d[n], out=change[n]) if n in change else new - d[n]
            d[n] = new
            for source, back in linear.pull(state, new).items():
                parts[source].append((bound.reverse_gain(source, n), back))
        return {n: (v, change.get(n, v)) for n, v in d.items()}

    with torch.no_grad():
        if not block.has_feedback:
            sweep()
            return d, Relaxation(block.name, 1, 0.0, True)
        like = next(iter(linear.states.values()))
        stop = tolerance.nudged(like.dtype)
        correction: Displacing | None = None
        narrow = tangent and corrects_narrowly(bound, like, tolerance)

        def step() -> Mapping[str, tuple[Tensor, Tensor]]:
            nonlocal correction
            if narrow and d:
                correction = correction or Displacing(linear, d, dict(d))
                return correction.sweep()
            return sweep()

        record = iterate(block.name, step, stop, tolerance.max_sweeps, contraction=bound.contraction, from_zero=True)
    return d, record


Part = tuple[float, Tensor]
"""A factor and what it multiplies."""


def _total(parts: Sequence[Part]) -> Tensor | None:
    """The sum of ``factor * value``, in one pass a part; what it is given is not overwritten."""
    if not parts:
        return None
    (factor, total), *others = parts
    if factor != 1.0:
        total = total * factor
    for i, (factor, value) in enumerate(others):
        total = torch.add(total, value, alpha=factor) if i == 0 else total.add_(value, alpha=factor)
    return total
