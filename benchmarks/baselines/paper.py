"""The paper's schedule: a fixed number of sweeps for each phase (Nest & Ernoult, arXiv 2409.03306, and the code
published with it).

Free phase: T1 odd-even sweeps from zero states. Then T2 sweeps each under the nudges ``+beta`` and ``-beta``, one after
the other, from the free states, and

    dL/dtheta = [ dE/dtheta(s(+beta)) - dE/dtheta(s(-beta)) ] / (2 beta)

from the two states as they are. Every half-sweep computes the drives that it needs. Pooling winners follow the states
in all phases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import sweeps
from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.solve import BoundBlock, States


@dataclass(frozen=True)
class PaperSchedule:
    """The schedule's numbers, and an operator for :func:`benchmarks.baselines.chain.run`.

    Attributes:
        free, nudged: T1 and T2.
        beta: the nudge; relative to the largest error of the block's outputs.
        seen: called with each block and its free states.
    """

    free: int = 60
    nudged: int = 20
    beta: float = 0.1
    seen: Callable[[EnergyBlock, States], None] = lambda block, states: None

    def __call__(self, bound: BoundBlock) -> States:
        tensors = {
            k: v
            for k, v in {**bound.inputs, **bound.weights}.items()
            if isinstance(v, Tensor) and v.is_floating_point()
        }
        outputs = _Phases.apply(self, bound, tuple(tensors), *tensors.values())
        return dict(zip(bound.block.outputs, outputs, strict=True))

    def relaxed(self, bound: BoundBlock) -> States:
        """The free phase."""
        states = sweeps.zeros(bound)
        for _ in range(self.free if bound.block.has_feedback else len(sweeps.colours(bound.block))):
            states = sweeps.sweep(bound, states)
        return states

    def estimate(self, bound: BoundBlock, states: States, errors: Mapping[str, Tensor], leaves: States) -> States:
        """The gradient in each leaf of ``bound``."""
        largest = max(float(e.abs().amax()) for e in errors.values())
        if largest == 0:
            return {n: torch.zeros_like(v) for n, v in leaves.items()}
        beta, found = self.beta / largest, []
        for side in (beta, -beta):
            nudged = states
            for _ in range(self.nudged if bound.block.has_feedback else 1):
                nudged = sweeps.sweep(bound, nudged, {n: side * e for n, e in errors.items()})
            found.append(_energy_gradients(bound, nudged, leaves))
        return {n: (found[0][n] - found[1][n]) / (2 * beta) for n in leaves}


def _energy_gradients(bound: BoundBlock, states: States, leaves: States) -> States:
    """``dE/dtheta = - sum_m w_m <s_m, df_m/dtheta>``; the potentials hold no weight."""
    with torch.enable_grad():
        energy = -sum(
            (bound.layer_weights[s.name] * states[s.name] * bound.drive(s, states)).sum() for s in bound.block.states
        )
        found = torch.autograd.grad(torch.as_tensor(energy), list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(leaves.items(), found, strict=True)}


class _Phases(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, schedule: PaperSchedule, bound: BoundBlock, names: tuple[str, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        detached, _ = bound.with_leaves(())
        states = schedule.relaxed(detached)
        schedule.seen(bound.block, states)
        ctx.schedule, ctx.bound, ctx.names, ctx.states = schedule, detached, names, states
        return tuple(states[n].clone() for n in bound.block.outputs)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor | None) -> tuple[Any, ...]:
        wanted = [n for n, needed in zip(ctx.names, ctx.needs_input_grad[3:], strict=True) if needed]
        bound, leaves = ctx.bound.with_leaves(wanted)
        arrived = {n: e for n, e in zip(bound.block.outputs, errors, strict=True) if e is not None}
        found = ctx.schedule.estimate(bound, ctx.states, arrived, leaves)
        return (None, None, None, *(found.get(n) for n in ctx.names))
