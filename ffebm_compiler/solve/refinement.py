"""A certified block settles in one sweep and a correction, and the correction needs few digits.

    a_l' = a_l + J_l (s'_<l - s_<l) + sum_m (w_m / w_l) J_lm^T (s_m - s_m before),      s_l' = sigma_l(a_l')

A sweep of a block whose couplings are linear moves each pre-activation by products of what has moved. Where the certified
contraction makes that small enough, the products are taken in bfloat16: the states keep the precision that they are stored in, as a
solution does under iterative refinement (Higham 2002, chapter 12). The displacement of a nudged phase is corrected in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ir import State
from .binding import BoundBlock, States
from .differentiation import Linearised
from .explicit_narrow import DIGITS, narrow_pays
from .parts import total
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
    """Whether what the feedback adds to a displacement may be rounded to bfloat16."""
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

    def sweep(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The next sweep, of all states that have anything to follow."""
        linear, states = self.linear, self.linear.bound.block.states
        back = {
            s.name: linear.pull(s, self.change[s.name], narrow=True)
            for s in states
            if s.drive.sources and s.name in self.change
        }
        moved: States = {}
        for state in states:
            self._follow(state, back, moved)
        self.change = moved
        return {n: (self.states[n], c) for n, c in moved.items()}

    def _follow(self, state: State, back: Mapping[str, Mapping[str, Tensor]], moved: States) -> None:
        n, bound = state.name, self.linear.bound
        parts = [(bound.reverse_gain(n, m), found[n]) for m, found in back.items() if n in found]
        push, _ = self.linear.push(state, moved, narrow=True)
        parts += [] if push is None else [(1.0, push)]
        if not parts:
            return
        a = total([(1.0, self.activations[n]), *parts])  # not in place: the state may be the memory of its activation
        assert a is not None
        self.activations[n], new = a, state.potential.activation(a)
        moved[n] = new - self.states[n]
        self.states[n] = new
