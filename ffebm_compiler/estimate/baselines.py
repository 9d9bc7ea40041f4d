"""Gradients without equilibrium propagation: implicit differentiation, unrolling, and zeroth order.

The first two are exact and share no code with the nudged phases: they differentiate the relaxation's own sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import OptionError, Problem
from ..solve import BoundBlock, Gradients, States, Tolerance, differentiable_sweep, gradients_of, relax
from ..solve.iteration import iterate
from ..solve.tolerance import coarsest
from .estimator import Estimate, FreePhase


@dataclass(frozen=True)
class Implicit:
    """Implicit differentiation of the sweep T's fixed point: ``v = dL/ds + (dT/ds)^T v``, then ``(dT/dtheta)^T v``."""

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        bound, leaves = free.bound.with_leaves(wanted)
        states = {k: v.detach().requires_grad_() for k, v in free.states.items()}
        with torch.enable_grad():
            new = differentiable_sweep(bound, states)
        sources = {n: errors.get(n, torch.zeros_like(v)) for n, v in states.items()}
        adjoint = {n: torch.zeros_like(v) for n, v in states.items()}
        names = list(states)

        def sweep() -> dict[str, tuple[Tensor, Tensor]]:
            back = torch.autograd.grad(
                [new[n] for n in names if new[n].requires_grad],
                [states[n] for n in names],
                [adjoint[n] for n in names if new[n].requires_grad],
                retain_graph=True,
                allow_unused=True,
            )
            changes = {}
            for n, b in zip(names, back, strict=True):
                updated = sources[n] if b is None else sources[n] + b
                changes[n] = (updated, updated - adjoint[n])
                adjoint[n] = updated
            return changes

        record = iterate(bound.block.name, sweep, free.tolerance.nudged(coarsest(states)), free.tolerance.max_sweeps)
        with torch.enable_grad():
            scalar = sum((adjoint[n] * new[n]).sum() for n in names)
        return Estimate(gradients_of(torch.as_tensor(scalar), leaves), (record,))


@dataclass(frozen=True)
class Unrolled:
    """Automatic differentiation through the relaxation; its memory grows with the number of sweeps.

    Attributes:
        sweeps: how many sweeps to unroll from the feedforward states; None takes as many as the free phase took.
    """

    sweeps: int | None = None

    def __post_init__(self) -> None:
        if self.sweeps is not None and not (isinstance(self.sweeps, int) and self.sweeps > 0):
            raise OptionError(
                Problem(
                    "option sweeps of Unrolled",
                    f"is {self.sweeps!r}",
                    "Give a positive number of sweeps, or None for as many as the free phase takes.",
                )
            )

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        with torch.enable_grad():
            bound, leaves = free.bound.with_leaves(wanted)
            states = bound.feedforward()
            if bound.block.has_feedback:
                for _ in range(self.sweeps or free.relaxation.sweeps):
                    states = differentiable_sweep(bound, states)
            scalar = sum((errors[n] * states[n]).sum() for n in errors)
            return Estimate(gradients_of(torch.as_tensor(scalar), leaves))


@dataclass(frozen=True)
class SPSA:
    """Simultaneous perturbation (Spall 1992): ``(L(u + c z) - L(u - c z)) / (2 c) * z`` over random signs z.

    Attributes:
        samples: perturbations that are averaged; the variance falls as 1/samples.
        scale: c, relative to the root mean square of each perturbed tensor.
        seed: of the signs, when no generator is given.
        generator: a generator on the CPU; successive calls advance it.
    """

    samples: int = 1
    scale: float = 1e-3
    seed: int = 0
    generator: torch.Generator | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.samples, int) and self.samples > 0):
            raise OptionError(
                Problem("option samples of SPSA", f"is {self.samples!r}", "Give a positive number of perturbations.")
            )
        if not self.scale > 0:
            raise OptionError(
                Problem("option scale of SPSA", f"is {self.scale!r}", "Give a positive relative size, such as 1e-3.")
            )
        if self.generator is None:
            object.__setattr__(self, "generator", torch.Generator().manual_seed(self.seed))

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        bound, leaves = free.bound.detached().with_leaves(wanted)
        values = {n: v.detach() for n, v in leaves.items()}
        total: Gradients = {n: torch.zeros_like(v) for n, v in values.items()}
        for _ in range(self.samples):
            signs = {
                n: (torch.randint(0, 2, v.shape, generator=self.generator) * 2 - 1).to(v) for n, v in values.items()
            }
            steps = {n: self.scale * v.square().mean().sqrt().clamp(min=1e-3) for n, v in values.items()}
            sides = [
                _loss(
                    bound,
                    {n: values[n] + side * steps[n] * signs[n] for n in values},
                    errors,
                    free.states,
                    free.tolerance,
                )
                for side in (1, -1)
            ]
            slope = (sides[0] - sides[1]) / 2
            for n in total:
                total[n] += slope / steps[n] * signs[n] / self.samples
        return Estimate(total)


def _loss(
    bound: BoundBlock, values: Mapping[str, Tensor], errors: Mapping[str, Tensor], start: States, tolerance: Tolerance
) -> Tensor:
    moved = BoundBlock(
        bound.block,
        {k: values.get(k, v) for k, v in bound.inputs.items()},
        {k: values.get(k, v) for k, v in bound.weights.items()},
        bound.layer_weights,
    )
    states = relax(moved, tolerance, start if bound.block.has_feedback else None).states
    return torch.as_tensor(sum((errors[n] * states[n]).sum() for n in errors))
