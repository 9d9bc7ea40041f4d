"""The free phase: where is the equilibrium of a block?

One sweep updates the states in forward order, each with the newest drive from below and the feedback from
above: exact minimisation of the energy over one state after another (block coordinate descent), so the energy
never rises while the couplings are linear. The residual of a sweep is the largest relative change of a state,

    r = max_l |s_l' - s_l|_inf / |s_l'|_inf,

and the distance to the equilibrium is estimated as ``r * rho / (1 - rho)``, with rho the measured contraction, or
the contraction that the gains certify (:func:`~.loop_gain.contraction_of`), with which one sweep less is enough.

Where a maximum is taken over states (max pooling) and the feedback pushes its winner below the next, the energy has a kink
at the tie, and sweeps go back and forth across it for ever. A block whose gains bound its feedback holds the winners of the
feedforward pass: its energy is then strictly convex, and where the feedback raises a winner it is also the lowest of all
choices. At unit feedback the winners follow the states while the residual falls; once it has stalled they are held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .automatic import AUTOMATIC
from .binding import BoundBlock, States
from .differentiation import Differentiation, Drive, Interaction, Narrow, UnderivableError
from .explicit_narrow import DIGITS
from .over_relaxation import WORTH, Pace, limit_of, overshot
from .parts import Part, is_apart, total
from .refinement import HOPE, Correction, may_be_narrow, pays
from .tolerance import Tolerance, coarsest

STALLED, PATIENCE = 0.98, 2
"""The winners of maxima are held once so many sweeps on end have not brought the residual below this part of its lowest."""

ROUTED = 3
"""Sweeps are not over-relaxed before so many have brought the residual down, where winners of maxima follow: a tie shows by then."""

SOME = 3
"""Sweeps that are worth waiting for."""

FASTEST = 0.05
"""The least contraction that a measurement from two sweeps is trusted with."""

TINY = 1e-38
"""No state is smaller, in the ratio of its change to it."""

DIVERGED = 1e30
"""A state beyond this is on its way to infinity."""


@dataclass(frozen=True)
class Relaxation:
    """How a relaxation ended.

    Attributes:
        block: the block's name.
        sweeps: the sweeps it took.
        residual: the estimated relative distance to the equilibrium.
        converged: whether that is within the tolerance.
        held: whether the winners of maxima were held: from the start, or once they had gone back and forth.
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
        winners: the winners of maxima, where they were held; empty otherwise.
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
    contraction: float | None = None,
    from_zero: bool = False,
    pace: Pace | None = None,
    slow: float = math.inf,
) -> Relaxation:
    """Sweeps until the estimated error is within the tolerance.

    Args:
        sweep: advances by one sweep and returns (new, change) of each state.
        until_stalled: give up as soon as the residual no longer falls.
        contraction: a bound on what a sweep leaves of the error, where one is certified; one sweep may then be enough.
        from_zero: what is relaxed begins at zero, so the first residual is 1 and need not be looked at.
        pace: how far the sweeps go; it is told every residual.
        slow: give up once sweeps leave more than this of the residual, if more than some are still needed.
    """
    first = from_zero

    def step() -> float:
        nonlocal first
        changes, known = sweep(), first
        first = False
        return 1.0 if known and changes else _residual(changes)

    sure = contraction is not None and not from_zero
    floor = FASTEST if contraction is None else contraction
    return advance(name, step, tolerance, max_sweeps, until_stalled, floor, sure, pace, slow)


def advance(
    name: str,
    step: Callable[[], float],
    tolerance: float,
    max_sweeps: int,
    until_stalled: bool = False,
    floor: float = FASTEST,
    sure: bool = False,
    pace: Pace | None = None,
    slow: float = math.inf,
    rounding: Callable[[], float] = lambda: 0.0,
) -> Relaxation:
    """The one relaxation loop, of steps that tell their residual; ``sure`` lets it end at the first one, ``rounding`` adds to the estimated error."""
    pace = Pace(limit=1.0) if pace is None else pace
    lowest, error, stalls = math.inf, math.inf, 0
    for k in range(1, max_sweeps + 1):
        residual = step()
        if not math.isfinite(residual):
            return Relaxation(name, k, math.inf, False)
        rho = pace.after(residual)
        stalls = (
            0 if residual < STALLED * lowest else stalls + 1
        )  # against the lowest: a cycle of winners may be longer than one sweep
        lowest = min(lowest, residual)
        error = residual * max(floor, rho / (1 - rho)) if rho < 1 else residual * 1e3
        error += rounding()
        if residual == 0 or ((sure or k > 1) and error <= tolerance):
            return Relaxation(name, k, error, True)
        if k > 1 and rho > slow and error * rho**SOME > tolerance:
            return Relaxation(name, k, error, False)
        if until_stalled and stalls == PATIENCE:
            if not pace.brake():
                return Relaxation(name, k, error, False)
            lowest, stalls = residual, 0
    return Relaxation(name, max_sweeps, error, False)


def peak(t: Tensor) -> Tensor:
    """The largest magnitude, in one pass over the memory."""
    return torch.stack(torch.aminmax(t)).abs().amax()


def _residual(changes: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """The largest relative change, in one transfer from the device."""
    pairs = [(new, change) for new, change in changes.values() if new.numel()]
    ends = [end for pair in pairs for t in pair for end in torch.aminmax(t)]
    sizes = iter([abs(v) for v in torch.stack(ends).cpu().tolist()]) if ends else iter(())
    return largest_ratio((max(a, b), max(c, d)) for a, b, c, d in zip(sizes, sizes, sizes, sizes, strict=True))


def largest_ratio(peaks: Iterable[tuple[float, float]]) -> float:
    """The largest ratio of a state's change to the state, of the peaks of both; infinite where a state has left all bounds or is no number."""
    ratios = [0.0]
    for scale, moved in peaks:
        ratio = moved / max(scale, TINY) if scale > 0 else 0.0
        ratios.append(ratio if scale < DIVERGED and not math.isnan(moved) else math.inf)
    return max(ratios)


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
            states = bound.detached().feedforward() if start is None else dict(start)
            return Equilibrium(states, Relaxation(bound.block.name, 1, 0.0, True))
        try:
            return _relaxed(differentiation, bound, tolerance, start)
        except UnderivableError:
            return _relaxed(AUTOMATIC, bound, tolerance, start)


def _relaxed(
    differentiation: Differentiation, bound: BoundBlock, tolerance: Tolerance, start: States | None
) -> Equilibrium:
    interaction = differentiation.interaction(bound)
    bound = interaction.bound
    narrow = differentiation.narrow(interaction.bound) if may_be_narrow(interaction.bound, tolerance) else None
    begun = _begin(interaction, start, narrow)
    point, interaction, winners = begun.point, begun.interaction, begun.winners
    stop = tolerance.of(coarsest(point.states))
    if begun.narrow is not None:
        states, record = _settle_refined(interaction, begun.narrow, point, stop, tolerance.max_sweeps, begun.own)
        return Equilibrium(states, replace(record, held=bool(winners)), winners)
    point, record = _settle(interaction, point, stop, tolerance.max_sweeps)
    if winners:
        record = replace(record, held=True)
    elif not record.converged and math.isfinite(record.residual) and record.sweeps < tolerance.max_sweeps:
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


@dataclass(frozen=True)
class _Beginning:
    """Where sweeps begin.

    Attributes:
        winners: those that are held from there on: of a block whose gains bound the feedback.
        narrow: the block in bfloat16, where that may be used and pays.
        own: the states whose memory nothing else reads.
    """

    point: _Point
    interaction: Interaction
    winners: dict[str, Tensor]
    narrow: Narrow | None
    own: Collection[str] = ()


def _begin(interaction: Interaction, start: States | None, narrow: Narrow | None) -> _Beginning:
    """At the feedforward states, or at given ones; feedforward states that sweeps correct anyway may be computed in bfloat16."""
    bound = interaction.bound
    routed = bound.block.is_routed and bound.contraction is not None
    if start is not None:
        winners = bound.winners(start) if routed else {}
        interaction = interaction.holding(winners)
        narrow = narrow and narrow.holding(winners)
        point = _Point.at(interaction, start)
        return _Beginning(point, interaction, winners, narrow if narrow and pays(narrow, start) else None)
    leaves: States = {}
    drives: dict[str, Drive] = {}
    winners, narrowed, own = {}, set[str](), set[str]()
    for n in (s.name for s in bound.block.states):
        state, f = interaction.bound.block.state(n), None  # a maximum that an earlier state reads too is held already
        if routed and state.drive.is_routed:
            if narrow is None:
                f, chosen = interaction.bound.routed_drive(state, leaves)
            else:
                chosen = interaction.bound.winners_of(state, leaves)
                narrow = narrow.holding(chosen)
            winners |= chosen
            interaction = interaction.holding(chosen)
            state = interaction.bound.block.state(n)
        if narrow is not None and state.drive.sources and narrow.pays(state, leaves):
            f = narrow.drive(state, leaves)
            narrowed.add(n)
        drives[n] = interaction.drive(state, leaves, f)
        a, is_own = _activation(drives[n], ())
        is_own = is_own or (n in narrowed and drives[n].f is f)
        s = state.potential.settle(a) if is_own else state.potential.activation(a)
        leaves[n] = interaction.leaf(s)
        if is_own or is_apart(s, [a]):
            own.add(n)
    return _Beginning(_Point(leaves, drives), interaction, winners, narrow if narrowed else None, own)


def _settle(interaction: Interaction, point: _Point, tolerance: float, max_sweeps: int) -> tuple[_Point, Relaxation]:
    """Sweeps until the residual is within the tolerance, or a routed block stalls."""
    change: States = {}
    block, contraction = interaction.bound.block, interaction.bound.contraction
    weak = contraction is not None and contraction <= WORTH
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


def _settle_refined(
    interaction: Interaction, narrow: Narrow, point: _Point, tolerance: float, max_sweeps: int, own: Collection[str]
) -> tuple[States, Relaxation]:
    """Sweeps of a certified block, those after a plain one as corrections in bfloat16 as long as their rounding can be borne.

    Args:
        own: the states whose memory may be overwritten.
    """
    contraction, pace = interaction.bound.contraction, Pace(limit=1.0)
    assert contraction is not None
    correction, rounding, hoped = None, 0.0, math.inf

    def step() -> float:
        nonlocal point, correction, rounding, hoped
        if correction is not None and rounding + DIGITS * hoped <= tolerance:
            residual = _residual(correction.sweep())
            rounding += DIGITS * residual
        else:
            activations: States = {}
            before, spent = (point.states, own) if correction is None else (correction.states, correction.change)
            point = _forward_sweep(interaction, replace(point, leaves=before), kept=activations)
            new = point.states
            change = {n: torch.sub(s, before[n], out=before[n] if n in spent else None) for n, s in new.items()}
            correction, rounding = Correction(narrow, new, activations, change), 0.0
            residual = _residual({n: (s, change[n]) for n, s in new.items()})
        hoped = HOPE * contraction * residual
        return residual

    record = advance(
        interaction.bound.block.name,
        step,
        tolerance,
        max_sweeps,
        floor=contraction,
        sure=True,
        pace=pace,
        rounding=lambda: rounding,
    )
    assert correction is not None
    return correction.states, record


def _forward_sweep(interaction: Interaction, point: _Point, omega: float = 1.0, kept: States | None = None) -> _Point:
    """One sweep in forward order, the feedback from the states before it, each state going ``omega`` times as far as to its minimum.

    Args:
        kept: is given the pre-activations.
    """
    bound = interaction.bound
    feedback = {
        s.name: interaction.pull(s, point.drives[s.name], point.leaves[s.name].detach()) for s in bound.block.states
    }
    leaves: States = {}
    drives: dict[str, Drive] = {}
    for state in bound.block.states:
        n = state.name
        drives[n] = interaction.drive(state, leaves)
        parts = [(bound.reverse_gain(n, m), back[n]) for m, back in feedback.items() if n in back]
        a, is_own = _activation(drives[n], parts)
        if kept is not None:
            kept[n] = a if is_own else a.clone()
        overwrite = is_own and kept is None
        new = state.potential.settle(a) if overwrite else state.potential.activation(a)
        if omega != 1.0:
            new = overshot(state.potential, point.leaves[n].detach(), new, omega, overwrite)
        leaves[n] = interaction.leaf(new)
    return _Point(leaves, drives)


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
