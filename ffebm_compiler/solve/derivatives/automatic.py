"""Derivatives of the interaction by automatic differentiation, each time that one is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir import State
from ..binding import BoundBlock, States
from .interface import Differentiation, Drive, Gradients, gradients_of
from .linearisation import Linearisation


@dataclass(frozen=True)
class Recording:
    """Drives whose history is recorded: their transposes are vector-Jacobian products through it."""

    bound: BoundBlock

    def leaf(self, state: Tensor) -> Tensor:
        return state.detach().requires_grad_()

    def drive(self, state: State, leaves: States, f: Tensor | None = None) -> Drive:
        with torch.enable_grad():
            f = self.bound.drive(state, leaves)
        return Drive(f, {n: leaves[n] for n in state.drive.sources})

    def pull(self, state: State, drive: Drive, cotangent: Tensor) -> States:
        if not drive.sources:
            return {}
        pulled = torch.autograd.grad(drive.f, list(drive.sources.values()), cotangent, retain_graph=True)
        return dict(zip(drive.sources, pulled, strict=True))

    def holding(self, winners: Mapping[str, Tensor]) -> Recording:
        return Recording(self.bound.holding(winners))


@dataclass(frozen=True)
class Automatic:
    """Automatic differentiation of the interaction."""

    def interaction(self, bound: BoundBlock) -> Recording:
        return Recording(bound.detached())

    def linearise(self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()) -> Linearisation:
        return Linearisation(bound, states, wanted)

    def interaction_gradients(
        self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> Gradients:
        with torch.enable_grad():
            bound, leaves = bound.with_leaves(wanted)
            fixed = {k: v.detach() for k, v in states.items()}
            terms = [
                bound.layer_weights[s.name] * (fixed[s.name] * bound.drive(s, fixed)).sum() for s in bound.block.states
            ]
            return gradients_of(torch.as_tensor(sum(terms)), leaves)


AUTOMATIC: Differentiation = Automatic()
