"""The free phase of a block as a loop of a graph: the executor's sweeps until :mod:`.stop` says so, with its scalars.

    states, progress = start
    while progress.running:
        states' = sweep(states);  progress = advance(progress, Change.between(states, states'))

A block whose gains bound its feedback holds the winners of its maxima from the feedforward pass on. One whose maxima
follow the states has a second loop, in which the winners are held; it does no sweep unless the first one has stalled.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..solve import BoundBlock
from ..solve.binding import States
from .relaxation_numbers import stop_in
from .shapes import Space, symbolically
from .stop import Change, Progress, Stop, advance, begin, is_finite, whole, zero
from .sweep import Read, Sweep, marked_state, readable, relaxation, trace_sweep, with_fixed
from .trace import Marks

while_loop = torch.ops.higher_order.while_loop


@dataclass(frozen=True)
class Sweeps:
    """The traced sweeps of a block.

    Attributes:
        free: with maxima that follow the states; None where their winners are held from the start.
        held: with their winners held, of a block that has such maxima.
    """

    free: Sweep | None
    held: Sweep | None


@dataclass(frozen=True)
class Settled:
    """A block at its equilibrium, as values of a graph.

    Attributes:
        states: by name.
        sweeps, residual: as in :class:`~ffebm_compiler.solve.Relaxation`.
    """

    states: States
    sweeps: Tensor
    residual: Tensor


def trace_sweeps(bound: BoundBlock, space: Space, marks: Marks) -> Sweeps | None:
    """The sweeps of a block on fake values of a space; None where it has no feedback."""
    if not bound.block.has_feedback:
        return None
    with space.mode, symbolically():
        bound = with_fixed(bound, marks)
        states = _feedforward(bound, marks)
    holds = bound.block.is_routed and bound.contraction is not None  # the winners of the feedforward pass stand
    free = None if holds else trace_sweep(bound, states, space, marks)
    if not bound.block.is_routed:
        return Sweeps(free, None)
    with space.mode, symbolically():
        held = bound.holding(bound.winners(states))
    return Sweeps(free, trace_sweep(held, states, space, marks))


def settle(bound: BoundBlock, sweeps: Sweeps | None, numbers: Mapping[str, Tensor], marks: Marks) -> Settled:
    """The block's relaxation, while a graph is traced.

    Args:
        numbers: of relaxations, by name in the file.
    """
    bound = with_fixed(bound, marks)
    start = _feedforward(bound, marks)
    if sweeps is None:
        return Settled(start, whole(1), zero())
    found: Settled = marks.around(
        relaxation(bound), lambda: _settled(bound, start, sweeps, stop_in(numbers, bound.block))
    )
    return found


def _settled(bound: BoundBlock, start: States, sweeps: Sweeps, stop: Stop) -> Settled:
    if sweeps.free is None:
        assert sweeps.held is not None
        held = bound.holding(bound.winners(start))
        states, progress = _loop(sweeps.held, readable(held), start, begin(), stop, until_stalled=False, certified=True)
        return Settled(states, progress.sweeps, progress.error)
    routed = sweeps.held is not None
    states, progress = _loop(
        sweeps.free,
        readable(bound),
        start,
        begin(),
        stop,
        until_stalled=routed,
        certified=bound.contraction is not None,
    )
    if sweeps.held is None:
        return Settled(states, progress.sweeps, progress.error)
    held = bound.holding(bound.winners(states))
    again = ~progress.converged & is_finite(progress.error) & (progress.sweeps < stop.max_sweeps)
    rest = stop._replace(max_sweeps=stop.max_sweeps - progress.sweeps)
    states, after = _loop(sweeps.held, readable(held), states, begin(again), rest, until_stalled=False, certified=False)
    error = torch.where(again, after.error, progress.error)
    return Settled(states, progress.sweeps + after.sweeps, error)


def _feedforward(bound: BoundBlock, marks: Marks) -> States:
    states: States = {}
    for state in bound.block.states:
        states[state.name] = marked_state(bound, state, states, marks)
    return states


def _loop(
    sweep: Sweep,
    values: Mapping[Read, Any],
    start: States,
    progress: Progress,
    stop: Stop,
    until_stalled: bool,
    certified: bool,
) -> tuple[States, Progress]:
    """One loop; what it carries are the states and the progress, what it reads is the same in every sweep."""
    names = tuple(start)

    def split(flat: Sequence[Tensor]) -> tuple[Sequence[Tensor], Progress, Stop, Sequence[Tensor]]:
        ends = list(itertools.accumulate((len(names), len(progress), len(stop))))
        now, until = Progress(*flat[ends[0] : ends[1]]), Stop(*flat[ends[1] : ends[2]])
        return flat[: ends[0]], now, until, flat[ends[2] :]

    def running(*flat: Tensor) -> Tensor:
        return split(flat)[1].running.clone()

    def body(*flat: Tensor) -> tuple[Tensor, ...]:
        before, now, until, read = split(flat)
        after = fx.Interpreter(sweep.module).run(*before, *read)  # node by node: each keeps the user's label
        old, new = (dict(zip(names, states, strict=True)) for states in (before, after))
        change = Change.between(old, new, certified)
        return (*map(_own, after), *advance(now, change, until, until_stalled))

    carried = (*map(_own, start.values()), *progress)
    results = while_loop(running, body, carried, (*stop, *(values[r] for r in sweep.reads), *sweep.constants))
    return dict(zip(names, results, strict=False)), Progress(*results[len(names) :])


def _own(t: Tensor) -> Tensor:
    """Memory of its own, in plain order: what a loop carries may share none and keeps its layout."""
    return t.clone(memory_format=torch.contiguous_format)
