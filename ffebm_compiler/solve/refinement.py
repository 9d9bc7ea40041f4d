"""A certified block settles in one sweep and a correction; neither what it starts from nor the correction needs many digits.

    a_l' = a_l + J_l (s'_<l - s_<l) + sum_m (w_m / w_l) J_lm^T (s_m - s_m before),      s_l' = sigma_l(a_l')

A sweep of a block whose couplings are linear moves each pre-activation by products of what has moved. Where that is little, the
products are taken in bfloat16: the states keep the precision that they are stored in, as a solution does under iterative refinement
(Higham 2002, chapter 12). :mod:`.alternation` says how long that goes well. The displacement of a nudged phase is corrected in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ir import State
from .binding import BoundBlock, States
from .differentiation import Narrow, Products
from .explicit_narrow import narrow_pays
from .parts import is_apart, total
from .tolerance import Tolerance


def may_be_narrow(bound: BoundBlock, tolerance: Tolerance) -> bool:
    """Whether products of a block may be computed in bfloat16, and may gain from it: a certified block in float32, on a machine that multiplies bfloat16 faster."""
    if not tolerance.narrow or bound.contraction is None:
        return False
    read = [v for v in (*bound.inputs.values(), *bound.weights.values()) if isinstance(v, Tensor)]
    numbers = [v for v in read if v.is_floating_point()]
    if not numbers or any(v.dtype != torch.float32 for v in numbers):
        return False
    device = numbers[0].device
    return not torch.is_autocast_enabled(device.type) and narrow_pays(device)


def pays(narrow: Narrow, states: States) -> bool:
    """Whether any coupling of a block has a product that is faster in bfloat16."""
    return any([narrow.pays(s, states) for s in narrow.bound.block.states if s.drive.sources])


@dataclass
class Correction:
    """States and what they are computed from, one sweep after another.

    Attributes:
        products: of the block, in bfloat16.
        states, activations: s and a of each state after a sweep; both are overwritten.
        change: what the last sweep has moved each state by.
    """

    products: Products
    states: States
    activations: States
    change: States

    def sweep(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The next sweep, of all states that have anything to follow."""
        states = self.products.bound.block.states
        back = {
            s.name: self.products.pull(s, self.change[s.name])
            for s in states
            if s.drive.sources and s.name in self.change
        }
        moved: States = {}
        for state in states:
            self._follow(state, back, moved)
        self.change = moved
        return {n: (self.states[n], c) for n, c in moved.items()}

    def _follow(self, state: State, back: Mapping[str, Mapping[str, Tensor]], moved: States) -> None:
        n, bound = state.name, self.products.bound
        parts = [(bound.reverse_gain(n, m), found[n]) for m, found in back.items() if n in found]
        push, _ = self.products.push(state, moved)
        parts += [] if push is None else [(1.0, push)]
        if not parts:
            return
        old, before = self.states[n], self.activations[n]
        a = total([(1.0, before), *parts], overwrite=is_apart(before, [old]))  # a state may be its own activation
        assert a is not None
        self.activations[n], new = a, state.potential.activation(a)
        moved[n] = torch.sub(new, old, out=old)
        self.states[n] = new
