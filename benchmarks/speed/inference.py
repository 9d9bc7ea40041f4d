"""An inference of an ff-EBM in inferences of the feedforward network, at the default loop gain in blocks of 2."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import ffebm_compiler as fc
from benchmarks.speed.progress import watched
from benchmarks.speed.result import Goal, Options, Result, Row
from benchmarks.speed.step import BATCH
from benchmarks.speed.subjects import Batch, Subject, known, scaling, splitting, static
from benchmarks.speed.timing import race

ALLOWED = 3.0
FEEDFORWARD, DEFAULT, LOOSE = "feedforward", "default", "tolerance=1e-3"
WAYS: dict[str, dict[str, Any]] = {DEFAULT: {}, LOOSE: {"tolerance": 1e-3}}
"""Options of convert."""


def subjects(quick: bool) -> tuple[Subject, ...]:
    split = tuple(splitting(depth, 2, False, quick) for depth in ((6,) if quick else (6, 12)))
    return (*split, scaling(False, quick), static(False, quick), *known(quick).values())


def run(options: Options) -> Result:
    rows = [r for s in watched(subjects(options.quick), options, lambda s: s.label) for r in measure(s, options)]
    slowest = {way: max(r["ratio"] for r in rows if r["way"] == way) for way in dict.fromkeys(r["way"] for r in rows)}
    return Result(
        rows,
        [Goal(f"inference in feedforward ones, {way}, the slowest network", r, ALLOWED) for way, r in slowest.items()],
        [
            f"Batches of {BATCH}. The difference is that of the outputs to those of the default, relative to the "
            f"largest."
        ],
    )


def measure(subject: Subject, options: Options) -> list[Row]:
    """One row a way: the default, and a tolerance that converters of up to 8 bits don't tell from the default."""
    net, batch = subject.network(options).eval(), subject.batch(options, BATCH)
    ways = {way: subject.convert(net, **given) for way, given in WAYS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        works = {FEEDFORWARD: inference(copy.deepcopy(net), batch), **{w: inference(m, batch) for w, m in ways.items()}}
        found = race(works, options.times(), options.device)
        with torch.no_grad():
            outputs = {way: model(batch.x) for way, model in ways.items()}
    return [
        {
            **subject.columns,
            "way": way,
            **found.ratio(way, FEEDFORWARD).columns,
            "feedforward ms": found.milliseconds(FEEDFORWARD),
            "sweeps": max((r.sweeps for r in model.relaxation), default=0),
            "converged": f"{sum(r.converged for r in model.relaxation)}/{len(model.relaxation)}",
            "difference": float((outputs[way] - outputs[DEFAULT]).abs().max() / outputs[DEFAULT].abs().max()),
        }
        for way, model in ways.items()
    ]


def inference(model: nn.Module, batch: Batch) -> Callable[[], None]:
    def infer() -> None:
        with torch.no_grad():
            model(batch.x)

    return infer
