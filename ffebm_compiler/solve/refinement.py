"""A certified block settles in one sweep and a correction, and the correction needs few digits.

    a_l' = a_l + J_l (s'_<l - s_<l) + sum_m (w_m / w_l) J_lm^T (s_m - s_m before),      s_l' = sigma_l(a_l')

A sweep of a block whose couplings are linear moves each pre-activation by products of what has moved. Where the certified
contraction makes that small enough, the products are taken in bfloat16: the states keep the precision that they are stored in, as a
solution does under iterative refinement (Higham 2002, chapter 12). The displacement of a nudged phase is corrected in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..ir import State
from .binding import BoundBlock, States
from .differentiation import Linearised
from .explicit_narrow import DIGITS, narrow_pays
from .tolerance import Tolerance

SHARE = 0.25
"""The part of the tolerance that rounding a correction may take."""


def may_be_narrow(bound: BoundBlock, like: Tensor, tolerance: Tolerance) -> bool:
    """Whether corrections of a block may be computed in bfloat16, and gain from it."""
    plain = tolerance.narrow and like.dtype == torch.float32 and not torch.is_autocast_enabled(like.device.type)
    return plain and bound.contraction is not None and not bound.block.is_routed and narrow_pays(like.device)


def is_small(correction: float, tolerance: float) -> bool:
    """Whether a correction of this relative size may be rounded to bfloat16."""
    return correction * DIGITS <= SHARE * tolerance


def corrects_narrowly(bound: BoundBlock, like: Tensor, tolerance: Tolerance) -> bool:
    """Whether what the feedback adds to a displacement, or to its contrast, may be rounded to bfloat16."""
    return may_be_narrow(bound, like, tolerance) and is_small(bound.contraction or 1.0, tolerance.nudged(like.dtype))


@dataclass
class Correction:
    """States and what they are computed from, one sweep after another.

    Attributes:
        linear: the block's couplings; where it is linearised makes no difference.
        states, activations: s and a of each state, after a sweep.
        change: what the last sweep has moved each state by.
    """

    linear: Linearised
    states: States
    activations: States
    change: States
    _back: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def sweep(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The next sweep, of all states that have anything to follow."""
        states = self.linear.bound.block.states
        self._back = {
            s.name: self.linear.pull(s, self.change[s.name], narrow=True)
            for s in states
            if s.drive.sources and s.name in self.change
        }
        moved: States = {}
        for state in states:
            self._follow(state, moved)
        self.change = moved
        return {n: (self.states[n], c) for n, c in moved.items()}

    def _follow(self, state: State, moved: States) -> None:
        n, bound = state.name, self.linear.bound
        parts = [(bound.reverse_gain(n, m), back[n]) for m, back in self._back.items() if n in back]
        push, _ = self.linear.push(state, moved, narrow=True)
        parts += [] if push is None else [(1.0, push)]
        if not parts:
            return
        (gain, first), *others = parts
        a = torch.add(self.activations[n], first, alpha=gain)  # the state may be the memory of the activation before it
        for gain, part in others:
            a = a.add_(part, alpha=gain)
        self.activations[n], new = a, state.potential.activation(a)
        moved[n] = new - self.states[n]
        self.states[n] = new


@dataclass
class Displacing:
    """A displacement in the tangent form after its first sweep, corrected in backward order.

    Attributes:
        linear: the block at its free equilibrium.
        d: the displacement of each state.
        change: what the last sweep has moved it by.
    """

    linear: Linearised
    d: States
    change: States

    def sweep(self) -> dict[str, tuple[Tensor, Tensor]]:
        bound = self.linear.bound
        parts: dict[str, list[tuple[float, Tensor]]] = {s.name: [] for s in bound.block.states}
        moved: States = {}
        for state in reversed(bound.block.states):
            n = state.name
            push, _ = self.linear.push(
                state, {k: v for k, v in self.change.items() if k in state.drive.sources}, narrow=True
            )
            parts[n] += [] if push is None else [(1.0, push)]
            if not parts[n]:
                continue
            da = sum(
                (torch.mul(p, g) if g != 1.0 else p for g, p in parts[n][1:]), start=parts[n][0][1] * parts[n][0][0]
            )
            moved[n] = self.linear.tangents[n](da)
            self.d[n] = self.d[n] + moved[n]
            for source, back in self.linear.pull(state, moved[n], narrow=True).items():
                parts[source].append((bound.reverse_gain(source, n), back))
        self.change = moved
        return {n: (self.d[n], c) for n, c in moved.items()}
