"""The free phase: where is the equilibrium of a block?

One sweep updates the states in forward order, each with the newest drive from below and the feedback from
above: exact minimisation of the energy over one state after another (block coordinate descent), so the energy
never rises while the couplings are linear. :mod:`.iteration` tells when to stop.

Where a maximum is taken over states (max pooling) and the feedback pushes its winner below the next, the energy has a
kink at the tie, and sweeps go back and forth across it for ever. A block whose gains bound its feedback holds the
winners of the feedforward pass, or of the states that it starts from. Its energy is then strictly convex; where the
feedback raises a winner, it is also the lowest of all choices. At unit feedback the winners follow the states while the
residual falls, and are held once it has stalled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .binding import BoundBlock, States
from .derivatives.automatic import AUTOMATIC
from .derivatives.interface import Differentiation, Drive, Interaction
from .derivatives.sums import Part, total
from .iteration import Relaxation, iterate
from .over_relaxation import WORTH, Pace, limit_of, overshot
from .tolerance import Tolerance, coarsest

ROUTED = 3
"""Where winners of maxima follow, sweeps are not over-relaxed before so many have passed: a tie shows by then."""


@dataclass(frozen=True)
class Equilibrium:
    """States and the record of how they were found.

    Attributes:
        states: by name.
        relaxation: how they were found.
        winners: the winners of maxima, where they were held; empty otherwise.
        inside: as :attr:`BoundBlock.inside`.
    """

    states: States
    relaxation: Relaxation
    winners: Mapping[str, Tensor] = field(default_factory=dict)
    inside: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


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
    with torch.no_grad():
        if not bound.block.has_feedback:
            inside: States = {}
            states = bound.detached().feedforward(inside) if start is None else dict(start)
            return Equilibrium(states, Relaxation(bound.block.name, 1, 0.0, True), inside=inside)
        return _relaxed(differentiation, bound, tolerance, start)


def _relaxed(
    differentiation: Differentiation, bound: BoundBlock, tolerance: Tolerance, start: States | None
) -> Equilibrium:
    interaction = differentiation.interaction(bound)
    bound = interaction.bound
    point, interaction, winners = _begin(interaction) if start is None else _begin_at(interaction, start)
    stop = tolerance.of(coarsest(point.states))
    point, record = _settle(interaction, point, stop, tolerance.max_sweeps)
    if winners:
        record = replace(record, held=True)
    elif not record.converged and math.isfinite(record.residual) and record.sweeps < tolerance.max_sweeps:
        winners = bound.winners(point.states)
        held = interaction.holding(winners)
        point, after = _settle(held, _Point.at(held, point.states), stop, tolerance.max_sweeps - record.sweeps)
        record = replace(after, sweeps=record.sweeps + after.sweeps, held=True)
    return Equilibrium(point.states, record, winners, point.inside)


@dataclass(frozen=True)
class _Point:
    """States and their drives, which the next feedback needs; and :attr:`BoundBlock.inside`, once they were swept."""

    leaves: States
    drives: Mapping[str, Drive]
    inside: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def at(interaction: Interaction, states: Mapping[str, Tensor]) -> _Point:
        leaves = {k: interaction.leaf(v) for k, v in states.items()}
        return _Point(leaves, {s.name: interaction.drive(s, leaves) for s in interaction.bound.block.states})

    @property
    def states(self) -> States:
        return {n: s.detach() for n, s in self.leaves.items()}


_Beginning = tuple[_Point, Interaction, dict[str, Tensor]]
"""Where sweeps begin, and the winners that are held from there on: of a block whose gains bound the feedback."""


def _begin_at(interaction: Interaction, start: States) -> _Beginning:
    """At given states."""
    bound = interaction.bound
    winners = bound.winners(start) if bound.block.is_routed and bound.contraction is not None else {}
    interaction = interaction.holding(winners)
    return _Point.at(interaction, start), interaction, winners


def _begin(interaction: Interaction) -> _Beginning:
    """At the feedforward states."""
    bound = interaction.bound
    routed = bound.block.is_routed and bound.contraction is not None
    leaves: States = {}
    drives: dict[str, Drive] = {}
    winners: dict[str, Tensor] = {}
    for n in (s.name for s in bound.block.states):
        state, f = interaction.bound.block.state(n), None  # a maximum that an earlier state reads too is held already
        if routed and state.drive.is_routed:
            f, chosen = interaction.bound.routed_drive(state, leaves)
            winners |= chosen
            interaction = interaction.holding(chosen)
            state = interaction.bound.block.state(n)
        drives[n] = interaction.drive(state, leaves, f)
        a, is_own = _activation(drives[n], ())
        leaves[n] = interaction.leaf(state.potential.settle(a) if is_own else state.potential.activation(a))
    return _Point(leaves, drives), interaction, winners


def _settle(interaction: Interaction, point: _Point, tolerance: float, max_sweeps: int) -> tuple[_Point, Relaxation]:
    """Sweeps until the residual is within the tolerance, or a routed block stalls."""
    change: States = {}
    block, contraction = interaction.bound.block, interaction.bound.contraction
    weak = contraction is not None and contraction.rate <= WORTH
    pace = Pace(limit=1.0) if weak else Pace(limit_of(block.edges), ROUTED if block.is_routed else 1)

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        nonlocal point
        before, point = point.states, _forward_sweep(interaction, point, pace.omega)
        for n, s in point.states.items():
            change[n] = torch.sub(s, before[n], out=change[n]) if n in change else s - before[n]
        return {n: (s, change[n]) for n, s in point.states.items()}

    record = iterate(
        block.name,
        sweep,
        tolerance,
        max_sweeps,
        until_stalled=block.is_routed,
        contraction=contraction,
        pace=pace,
    )
    return point, record


def _forward_sweep(interaction: Interaction, point: _Point, omega: float = 1.0) -> _Point:
    """One sweep in forward order, the feedback from the states before it.

    Each state goes ``omega`` times as far as to its minimum.
    """
    bound = interaction.bound
    feedback = {
        s.name: interaction.pull(s, point.drives[s.name], point.leaves[s.name].detach()) for s in bound.block.states
    }
    leaves: States = {}
    drives: dict[str, Drive] = {}
    inside: States = {}
    for state in bound.block.states:
        n = state.name
        drives[n] = interaction.drive(state, leaves)
        parts = [(bound.reverse_gain(n, m), back[n]) for m, back in feedback.items() if n in back]
        a, is_own = _activation(drives[n], parts)
        overwrite = is_own and state.potential.inside is None
        new = state.potential.settle(a) if overwrite else state.potential.activation(a)
        if state.potential.inside is not None:
            inside[n] = state.potential.inside(a, new)
        if omega != 1.0:
            new = overshot(state.potential, point.leaves[n].detach(), new, omega, overwrite)
        leaves[n] = interaction.leaf(new)
    return _Point(leaves, drives, inside)


def _activation(drive: Drive, parts: Sequence[Part]) -> tuple[Tensor, bool]:
    """``f + sum_m (w_m / w_l) J_lm^T s_m``, and whether that is memory of its own."""
    a = total([(1.0, drive.f.detach()), *parts], overwrite=drive.is_own)
    assert a is not None
    return a, drive.is_own or bool(parts)


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
