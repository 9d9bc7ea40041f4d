"""A training step by BP-EP in steps of backpropagation through the same network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import ffebm_compiler as fc
from benchmarks.speed import gradients
from benchmarks.speed.progress import watched
from benchmarks.speed.result import Goal, Options, Result, Row
from benchmarks.speed.subjects import (
    GRADIENT_BATCH,
    Subject,
    backprop,
    known,
    paper,
    scaling,
    splitting,
    static,
    training_step,
)
from benchmarks.speed.timing import race

BATCH = 16
ALLOWED = 3.0
JUDGED = ("vgg11_bn", "splitting, L = 12")


def subjects(quick: bool) -> tuple[Subject, ...]:
    """Everything in blocks of 2 at the default loop gain, the paper's networks at unit feedback as well."""
    depths = (6,) if quick else (6, 12)
    two = tuple(splitting(depth, 2, False, quick) for depth in depths)
    sizes = () if quick else tuple(splitting(d, s, False) for d, s in ((6, 6), (6, 3), (12, 4), (12, 3)))
    return (*two, *sizes, static(False, quick), scaling(False, quick), *known(quick).values(), *paper(True, quick))


def run(options: Options) -> Result:
    rows = [measure(s, options) for s in watched(subjects(options.quick), options, lambda s: s.label)]
    notes = [
        f"Batches of {BATCH}. Cosines are those of a batch of {GRADIENT_BATCH}, against the exact gradient of "
        f"the same free energy in float64.",
        "Gradients of vgg11_bn are compared on images of 32 x 32, those of resnet18 on 64 x 64.",
    ]
    return Result(rows, goals(rows), notes)


def measure(subject: Subject, options: Options) -> Row:
    """One row: a network with its blocks and feedback."""
    net, batch = subject.network(options), subject.batch(options, BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)  # counted in the row
        model = subject.convert(net)
        small = subject.batch(options, GRADIENT_BATCH, gradient=True)
        model.ensure_gains(small.x)
        quality = gradients.judged(model, small, gradients.executor(model, small))
        works = {"backprop": backprop(net, batch), "BP-EP": training_step(model, batch)}
        found = race(works, options.times(), options.device)
    spread = found.ratio("BP-EP", "backprop")
    return {
        **subject.columns,
        **spread.columns,
        "backprop ms": found.milliseconds("backprop"),
        **relaxations(model),
        **quality.columns(),
    }


def relaxations(model: fc.FFEBM) -> Row:
    """Sweeps of the last step: the most of a block, and how many phases converged."""
    free, nudged = model.relaxation, [r for records in model.nudged_relaxation.values() for r in records]
    everything = [*free, *nudged]
    return {
        "free sweeps": max((r.sweeps for r in free), default=0),
        "nudged sweeps": max((r.sweeps for r in nudged), default=0),
        "converged": f"{sum(r.converged for r in everything)}/{len(everything)}",
    }


def goals(rows: Sequence[Row]) -> list[Goal]:
    """At the default loop gain, blocks of 2."""
    found = {r["network"]: r["ratio"] for r in rows if r["feedback"] != "unit" and r["blocks"] == "2"}
    return [
        Goal(f"training step of {name}, blocks of 2, in backprop steps", found.get(name), ALLOWED) for name in JUDGED
    ]
