"""An inference of an ff-EBM in inferences of the feedforward network, at the default loop gain in blocks of 2."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import nn

import ffebm_compiler as fc
from benchmarks.speed.progress import watched
from benchmarks.speed.result import Goal, Options, Result, Row
from benchmarks.speed.step import BATCH
from benchmarks.speed.subjects import Batch, Subject, known, scaling, splitting, static
from benchmarks.speed.timing import race

ALLOWED = 3.0


def subjects(quick: bool) -> tuple[Subject, ...]:
    split = tuple(splitting(depth, 2, False, quick) for depth in ((6,) if quick else (6, 12)))
    return (*split, scaling(False, quick), static(False, quick), *known(quick).values())


def run(options: Options) -> Result:
    rows = [measure(s, options) for s in watched(subjects(options.quick), options, lambda s: s.label)]
    worst = max(r["ratio"] for r in rows)
    return Result(
        rows,
        [Goal("inference in feedforward inferences, the slowest network", worst, ALLOWED)],
        [f"Batches of {BATCH}."],
    )


def measure(subject: Subject, options: Options) -> Row:
    net, batch = subject.network(options).eval(), subject.batch(options, BATCH)
    model = subject.convert(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        works = {"feedforward": inference(copy.deepcopy(net), batch), "ff-EBM": inference(model, batch)}
        found = race(works, options.times(), options.device)
    spread = found.ratio("ff-EBM", "feedforward")
    return {
        **subject.columns,
        **spread.columns,
        "feedforward ms": found.milliseconds("feedforward"),
        "sweeps": max((r.sweeps for r in model.relaxation), default=0),
        "converged": f"{sum(r.converged for r in model.relaxation)}/{len(model.relaxation)}",
    }


def inference(model: nn.Module, batch: Batch) -> Callable[[], None]:
    def infer() -> None:
        with torch.no_grad():
            model(batch.x)

    return infer
