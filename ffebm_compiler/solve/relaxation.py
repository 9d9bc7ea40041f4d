"""The free phase: where is the equilibrium of a block?

One sweep updates the states in forward order, each with the newest drive from below and the feedback from
above: exact minimisation of the energy over one state after another (block coordinate descent), so the energy
never rises while the couplings are linear. The residual of a sweep is the largest relative change of a state,

    r = max_l |s_l' - s_l|_inf / |s_l'|_inf,

and the distance to the equilibrium is estimated as ``r * rho / (1 - rho)``, with rho the measured contraction.

Where a maximum is taken over states (max pooling) and the feedback pushes its winner below the next, the energy has a kink
at the tie, and sweeps go back and forth across it for ever. So the winners follow the states while the residual falls; once
it has stalled they are held, and the block settles to the equilibrium of the energy with these winners.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .automatic import AUTOMATIC
from .binding import BoundBlock, States
from .differentiation import Differentiation, Drive, Interaction

STALLED, PATIENCE = 0.98, 2
"""The winners of maxima are held once so many sweeps on end have not brought the residual below this part of its lowest."""

FASTEST = 0.05
"""The least contraction that a measurement from two sweeps is trusted with."""

DIVERGED = 1e30
"""A state beyond this is on its way to infinity."""


@dataclass(frozen=True)
class Tolerance:
    """When a relaxation stops.

    Attributes:
        residual: the relative error at which it has converged; None chooses by the type's precision.
        max_sweeps: the largest number of sweeps.
    """

    residual: float | None = None
    max_sweeps: int = 200

    def of(self, dtype: torch.dtype) -> float:
        """The tolerance of a free phase; by default some 30 roundings of the type, below which a residual is noise, and at most a few percent."""
        return min(max(32 * torch.finfo(dtype).eps, 1e-13), 0.03) if self.residual is None else self.residual

    def nudged(self, dtype: torch.dtype) -> float:
        """The tolerance of a nudged phase, where the displacement alone is relaxed: a gradient needs fewer digits than a state."""
        return min(100 * self.of(dtype), max(self.of(dtype), 1e-2))


@dataclass(frozen=True)
class Relaxation:
    """How a relaxation ended.

    Attributes:
        block: the block's name.
        sweeps: the sweeps it took.
        residual: the estimated relative distance to the equilibrium.
        converged: whether that is within the tolerance.
        held: whether the winners of maxima went back and forth, and were held for the block to settle.
    """

    block: str
    sweeps: int
    residual: float
    converged: bool
    held: bool = False


@dataclass(frozen=True)
class Equilibrium:
    """States and the record of how they were found.

    Attributes:
        states: by name.
        relaxation: how they were found.
        winners: the winners of maxima, where they had to be held for the block to settle; empty otherwise.
    """

    states: States
    relaxation: Relaxation
    winners: Mapping[str, Tensor] = field(default_factory=dict)


def iterate(
    name: str,
    sweep: Callable[[], Mapping[str, tuple[Tensor, Tensor]]],
    tolerance: float,
    max_sweeps: int,
    until_stalled: bool = False,
) -> Relaxation:
    """The one relaxation loop: sweeps until the estimated error is within the tolerance.

    Args:
        sweep: advances by one sweep and returns (new, change) of each state.
        until_stalled: give up as soon as the residual no longer falls.
    """
    previous, lowest, error, rho, stalls = math.inf, math.inf, math.inf, 0.0, 0
    for k in range(1, max_sweeps + 1):
        residual = _residual(sweep())
        if not math.isfinite(residual):
            return Relaxation(name, k, math.inf, False)
        if 0 < previous < math.inf:
            rho = residual / previous
        stalls = (
            0 if residual < STALLED * lowest else stalls + 1
        )  # against the lowest: a cycle of winners may be longer than one sweep
        lowest = min(lowest, residual)
        error = residual * max(FASTEST, rho / (1 - rho)) if rho < 1 else residual * 1e3
        if residual == 0 or (k > 1 and error <= tolerance):
            return Relaxation(name, k, error, True)
        if until_stalled and stalls == PATIENCE:
            return Relaxation(name, k, error, False)
        previous = residual
    return Relaxation(name, max_sweeps, error, False)


def peak(t: Tensor) -> Tensor:
    """The largest magnitude, in one pass over the memory."""
    return torch.stack(torch.aminmax(t)).abs().amax()


def _residual(changes: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """The largest relative change, in one transfer from the device."""
    ratios = []
    for new, change in changes.values():
        if new.numel():
            scale, moved = peak(new).float(), peak(change).float()
            ratios.append(torch.where(scale > 0, moved / scale.clamp(min=1e-38), 0.0))
            ratios[-1] = torch.where(scale < DIVERGED, ratios[-1], torch.inf)
    return float(torch.stack(ratios).amax()) if ratios else 0.0


def relax(
    bound: BoundBlock,
    tolerance: Tolerance,
    start: States | None = None,
    differentiation: Differentiation = AUTOMATIC,
) -> Equilibrium:
    """The free equilibrium of a block.

    Args:
        bound: the block; its history is ignored.
        tolerance: when to stop.
        start: states to start from; the feedforward ones by default.
        differentiation: how the transposes of its couplings are found.
    """
    interaction = differentiation.interaction(bound)
    bound = interaction.bound
    with torch.no_grad():
        if not bound.block.has_feedback:
            return Equilibrium(
                bound.feedforward() if start is None else dict(start), Relaxation(bound.block.name, 1, 0.0, True)
            )
        point = _forward_sweep(interaction, {}) if start is None else _Point.at(interaction, start)
        stop = tolerance.of(next(iter(point.states.values())).dtype)
        point, record = _settle(interaction, point, stop, tolerance.max_sweeps)
        winners: dict[str, Tensor] = {}
        if not record.converged and math.isfinite(record.residual) and record.sweeps < tolerance.max_sweeps:
            winners = bound.winners(point.states)
            held = interaction.holding(winners)
            point, after = _settle(held, _Point.at(held, point.states), stop, tolerance.max_sweeps - record.sweeps)
            record = replace(after, sweeps=record.sweeps + after.sweeps, held=True)
    return Equilibrium(point.states, record, winners)


@dataclass(frozen=True)
class _Point:
    """States, and the drives computed from them: all that the next feedback needs."""

    leaves: States
    drives: Mapping[str, Drive]

    @staticmethod
    def at(interaction: Interaction, states: Mapping[str, Tensor]) -> _Point:
        leaves = {k: interaction.leaf(v) for k, v in states.items()}
        return _Point(leaves, {s.name: interaction.drive(s, leaves) for s in interaction.bound.block.states})

    @property
    def states(self) -> States:
        return {n: s.detach() for n, s in self.leaves.items()}


def _settle(interaction: Interaction, point: _Point, tolerance: float, max_sweeps: int) -> tuple[_Point, Relaxation]:
    """Sweeps until the residual is within the tolerance, or a routed block stalls."""

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        nonlocal point
        before, point = point.states, _forward_sweep(interaction, interaction.feedback(point.leaves, point.drives))
        return {n: (s, s - before[n]) for n, s in point.states.items()}

    block = interaction.bound.block
    record = iterate(block.name, sweep, tolerance, max_sweeps, until_stalled=block.is_routed)
    return point, record


def _forward_sweep(interaction: Interaction, feedback: Mapping[str, Tensor]) -> _Point:
    """One sweep in forward order; without feedback it is the feedforward pass."""
    leaves: States = {}
    drives: dict[str, Drive] = {}
    for state in interaction.bound.block.states:
        n = state.name
        drives[n] = interaction.drive(state, leaves)
        a = drives[n].f.detach()
        leaves[n] = interaction.leaf(state.potential.activation(a + feedback[n] if n in feedback else a))
    return _Point(leaves, drives)


def differentiable_sweep(bound: BoundBlock, states: Mapping[str, Tensor]) -> States:
    """One forward sweep from ``states`` as a differentiable function of states, inputs and weights.

    At an equilibrium it is the identity on the states: the fixed-point map that implicit differentiation needs, and
    the step that automatic differentiation unrolls.
    """
    with torch.enable_grad():
        # a view of each: where one old state was computed from another, the feedback still takes partial derivatives
        old = {k: v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for k, v in states.items()}
        feedback = bound.feedback(old, {s.name: bound.drive(s, old) for s in bound.block.states}, create_graph=True)
        new: States = {}
        for state in bound.block.states:
            f = bound.drive(state, new)
            new[state.name] = state.potential.activation(f + feedback[state.name] if state.name in feedback else f)
    return new
