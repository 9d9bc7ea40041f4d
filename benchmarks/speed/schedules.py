"""Ways to train the paper's networks: each in backpropagation's steps of the same run, with its gradient's error.

*Ours* is the executor as ``convert`` gives it, and with looser tolerances; the *paper's schedule*, *recorded*
(automatic differentiation through the relaxation) and *torchdeq* are in ``benchmarks/baselines``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ffebm_compiler as fc
from benchmarks.baselines import chain
from benchmarks.baselines.automatic import Recorded
from benchmarks.baselines.deep_equilibrium import REMEDY, DeepEquilibrium, installed
from benchmarks.baselines.paper import PaperSchedule
from benchmarks.speed import gradients
from benchmarks.speed.progress import watched
from benchmarks.speed.result import Goal, Options, Result, Row
from benchmarks.speed.subjects import (
    GRADIENT_BATCH,
    Batch,
    Subject,
    backprop,
    scaling,
    splitting,
    static,
    training_step,
)
from benchmarks.speed.timing import Race, Work, race
from ffebm_compiler.model.converted_module import runner_of

BATCH = 8
OURS: Mapping[str, float | None] = {"ours": None, "ours, 1e-3": 1e-3, "ours, 3e-3": 3e-3}
"""Tolerances, the first the default."""

PAPER, RECORDED, LIBRARY = "paper's schedule", "recorded", "torchdeq"
UNIT, DEFAULT = 6.0, 20.0
"""Times as fast as the paper's schedule that we must be: at unit feedback on all its networks, at the default loop gain
on one.
"""

SHORT = ("splitting, L = 6, blocks of 2", "scaling, 15 layers", "static, 15 layers", "MLP")
"""Where the other baselines are timed too: a step of theirs takes up to a minute on the rest."""

Operators = Mapping[str, Callable[..., chain.Operator]]


def operators(subject: Subject) -> Operators:
    """The baselines at a subject, each to be made with ``seen=``."""
    free, nudged, beta = subject.schedule
    made: dict[str, Callable[..., chain.Operator]] = {PAPER: _with(PaperSchedule(free, nudged, beta))}
    if not subject.label.startswith(SHORT):
        return made
    made[RECORDED] = _with(Recorded(free))
    return {**made, LIBRARY: _with(DeepEquilibrium(iterations=free))} if installed() else made


def _with(operator: Any) -> Callable[..., chain.Operator]:
    def make(seen: Any = None) -> chain.Operator:
        return operator if seen is None else replace(operator, seen=seen)  # type: ignore[no-any-return]

    return make


@dataclass(frozen=True)
class Contender:
    """A way to train: its step, and the gradient that it takes on a small batch."""

    step: Work
    gradient: Callable[[], tuple[gradients.Gradients, gradients.Settled]]


def subjects(quick: bool) -> tuple[Subject, ...]:
    """The paper's networks at unit feedback; splitting networks in blocks of 2 at the default loop gain too."""
    if quick:
        return (static(True, quick), splitting(6, 2, False, quick))
    unit = [splitting(depth, size, True) for depth, size in ((6, 6), (6, 3), (6, 2), (12, 4), (12, 2))]
    return (*unit, scaling(True), static(True), splitting(6, 2, False), splitting(12, 2, False))


def run(options: Options) -> Result:
    found = [measure(s, options) for s in watched(subjects(options.quick), options, lambda s: s.label)]
    rows = [row for group in found for row in group]
    notes = [
        f"Batches of {BATCH}; errors on a batch of {GRADIENT_BATCH}, relative, of all parameters together, "
        f"each against the exact gradient of its own free energy, from its own states, in float64.",
        "Nudges of the paper's schedule are relative to the largest error; torchdeq stops at 1e-4 (Anderson) "
        "and 1e-2 (its adjoint, fixed-point iteration).",
    ]
    return Result(rows, goals(rows), notes if installed() else [*notes, f"{REMEDY}; it is left out."])


def contenders(model: fc.FFEBM, subject: Subject, batch: Batch, small: Batch) -> dict[str, Contender]:
    """Every way on a copy of one model, with the gains that it has."""
    found = {}
    for name, tolerance in OURS.items():
        ours = subject.convert(model.to_feedforward(), tolerance=tolerance)
        runner_of(ours).block_gains.use_those_of(runner_of(model).block_gains)
        found[name] = Contender(training_step(ours, batch), _bind(gradients.executor, copy.deepcopy(ours), small))
    for name, make in operators(subject).items():
        own = copy.deepcopy(model)
        forward = _bind_forward(own, make())
        found[name] = Contender(
            training_step(own, batch, forward), _bind(gradients.baseline, make, copy.deepcopy(model), small)
        )
    return found


def _bind(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _bind_forward(model: fc.FFEBM, operator: chain.Operator) -> Callable[[Any], Any]:
    return lambda x: chain.run(model, x, chain.settled_by(model, operator))


def measure(subject: Subject, options: Options) -> list[Row]:
    """A row a contender."""
    net, batch = subject.network(options), subject.batch(options, BATCH)
    small = subject.batch(options, GRADIENT_BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        model = subject.convert(net)
        model.ensure_gains(small.x)
        ways = contenders(model, subject, batch, small)
        qualities = {name: gradients.judged(model, small, way.gradient()) for name, way in ways.items()}
        works = {"backprop": backprop(net, batch), **{name: way.step for name, way in ways.items()}}
        found = race(works, options.times(), options.device)
    return [_row(subject, name, found, qualities[name]) for name in ways]


def _row(subject: Subject, name: str, found: Race, quality: gradients.Quality) -> Row:
    spread, against = found.ratio(name, "backprop"), found.ratio(PAPER, name)
    free, nudged, beta = subject.schedule
    settings = {
        PAPER: f"T1 {free}, T2 {nudged}, nudge {beta:g}",
        RECORDED: f"T1 {free}",
        LIBRARY: f"at most {free} iterations",
    }
    return {
        **subject.columns,
        "way": name,
        "settings": settings.get(name, ""),
        **spread.columns,
        "times as fast as the paper's": against.median,
        **quality.columns(),
    }


def goals(rows: Sequence[Row]) -> list[Goal]:
    """The speed-up over the paper's schedule by the fastest of our ways whose gradient is no worse."""
    unit, default = ([r for r in rows if (r["feedback"] == "unit") == wanted] for wanted in (True, False))
    small = [r for r in default if r["network"] == "splitting, L = 6" and r["blocks"] == "2"]
    return [
        Goal("least speed-up over the paper's schedule, unit feedback, no worse a gradient", least(unit), UNIT, True),
        Goal(
            "speed-up over the paper's schedule, L = 6 in blocks of 2, default loop gain", least(small), DEFAULT, True
        ),
    ]


def least(rows: Sequence[Row]) -> float | None:
    """Over the networks of some rows; 0 where no way of ours has as good a gradient."""
    networks = {(r["network"], r["blocks"], r["feedback"]) for r in rows}
    found = [speed_up([r for r in rows if (r["network"], r["blocks"], r["feedback"]) == key]) for key in networks]
    return min(found, default=None)


def speed_up(rows: Sequence[Row]) -> float:
    """On one network: of the fastest of our ways whose error is at most that of the paper's schedule."""
    bound = next(r["error"] for r in rows if r["way"] == PAPER)
    good = [r["times as fast as the paper's"] for r in rows if r["way"] in OURS and r["error"] <= bound]
    return max(good, default=0.0)
