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

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .binding import States
from .conjugate_gradients import SLOW, Division, conjugate, solves
from .derivatives.interface import Linearised
from .derivatives.sums import Part, total
from .iteration import Relaxation, iterate
from .tolerance import Tolerance, coarsest


def displace(
    linear: Linearised,
    errors: Mapping[str, Tensor],
    beta: float,
    tolerance: Tolerance,
    tangent: bool = False,
    start: Mapping[str, Tensor] | None = None,
) -> tuple[States, Relaxation]:
    """The displacement of the equilibrium under the nudge ``beta <s_out, errors>``.

    Args:
        linear: the block at its free equilibrium.
        errors: the loss's gradient in each output state.
        beta: the nudge strength; with ``tangent`` the displacement is linear in it.
        tolerance: when to stop, relative to each state's own displacement.
        tangent: with sigma' instead of sigma's difference: the limit of a vanishing nudge.
        start: a displacement to start from, such as the opposite of the opposite nudge's; none by default.
    """
    block, weights = linear.bound.block, linear.bound.layer_weights
    nudge = {n: (-beta / weights[n], e) for n, e in errors.items()}
    with torch.no_grad():
        nudged = _Nudged(linear, nudge, tangent, dict(start or {}))
        if not block.has_feedback:
            nudged.sweep()
            return nudged.d, Relaxation(block.name, 1, 0.0, True)
        stop = tolerance.nudged(coarsest(linear.states))
        return nudged.settled(stop, tolerance.max_sweeps, from_zero=start is None)


class _Nudged:
    """A block under a nudge ``c``, on its way to the displacement ``d``.

    Where two sweeps show that many would be needed, conjugate gradients take their place. They solve to first order in
    the nudge, so what is not tangent is swept on from there.
    """

    def __init__(self, linear: Linearised, nudge: Mapping[str, Part], tangent: bool, d: States):
        self.linear, self.nudge, self.tangent, self.d = linear, nudge, tangent, d
        self.increments = linear.tangents if tangent else linear.differences
        self._change: States = {}
        contraction = linear.bound.contraction
        strong = linear.bound.block.has_feedback and (contraction is None or contraction.rate > SLOW) and solves(linear)
        self.division = (
            Division.of(linear.bound.block, {n: v.numel() for n, v in linear.states.items()}) if strong else None
        )
        self._kept = {s.name for s in self.division.kept} if self.division else set[str]()
        self._da: States = {}

    def settled(self, tolerance: float, max_sweeps: int, from_zero: bool) -> tuple[States, Relaxation]:
        record = self._swept(tolerance, max_sweeps, from_zero, math.inf if self.division is None else SLOW)
        left = max_sweeps - record.sweeps
        if record.converged or not math.isfinite(record.residual) or left < 2:
            return self.d, record
        assert self.division is not None
        self.d, self._change = {}, {}  # conjugate gradients have their own
        self.d, solved = conjugate(self.linear, self.division, self.nudge, self._da, tolerance, left)
        self._da, self._kept, sweeps = {}, set(), record.sweeps + solved.sweeps
        if (self.tangent and math.isfinite(solved.residual)) or sweeps == max_sweeps:
            return self.d, replace(solved, sweeps=sweeps)
        record = self._swept(tolerance, max_sweeps - sweeps, False, math.inf)
        return self.d, replace(record, sweeps=sweeps + record.sweeps)

    def _swept(self, tolerance: float, max_sweeps: int, from_zero: bool, slow: float) -> Relaxation:
        bound = self.linear.bound
        contraction = bound.contraction
        return iterate(
            bound.block.name,
            self.sweep,
            tolerance,
            max_sweeps,
            contraction=contraction,
            from_zero=from_zero,
            slow=slow,
            forward=False,
        )

    def sweep(self) -> dict[str, tuple[Tensor, Tensor]]:
        """One sweep in backward order."""
        linear, bound, states = self.linear, self.linear.bound, self.linear.bound.block.states
        parts: dict[str, list[Part]] = {s.name: [self.nudge[s.name]] if s.name in self.nudge else [] for s in states}
        pushed = {s.name: linear.push(s, self.d) for s in states if not s.drive.is_linear}
        for m, (_, curvature) in pushed.items():
            for source, c in curvature.items():
                parts[source].append((bound.reverse_gain(source, m), c))
        for state in reversed(states):
            n = state.name
            push, _ = pushed.pop(n) if n in pushed else linear.push(state, self.d)
            new = self._follow(n, total([*([] if push is None else [(1.0, push)]), *parts.pop(n)]))
            for source, back in linear.pull(state, new).items():
                parts[source].append((bound.reverse_gain(source, n), back))
        return {n: (v, self._change.get(n, v)) for n, v in self.d.items()}

    def _follow(self, n: str, da: Tensor | None) -> Tensor:
        """The new displacement of a state whose pre-activation moves by ``da``; None if nothing reaches it."""
        new = torch.zeros_like(self.linear.states[n]) if da is None else self.increments[n](da)
        if n in self._kept:
            self._da[n] = new if da is None else da
        if n in self.d:
            self._change[n] = torch.sub(new, self.d[n], out=self._change.get(n))
        self.d[n] = new
        return new
