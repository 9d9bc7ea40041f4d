"""What smaller blocks save: a training step in large blocks, in steps of the same depth in blocks of 2.

The paper reports up to four times. Both relax to the same tolerance.
"""

from __future__ import annotations

import warnings

import ffebm_compiler as fc
from benchmarks.speed.progress import watched
from benchmarks.speed.result import Options, Result, Row
from benchmarks.speed.step import BATCH, relaxations
from benchmarks.speed.subjects import Subject, splitting, training_step
from benchmarks.speed.timing import Spread, race

FULL = ((6, (6, 3)), (12, (4, 3)))
QUICK = ((6, (3,)),)


def run(options: Options) -> Result:
    groups = [(d, sizes, unit) for unit in (True, False) for d, sizes in (QUICK if options.quick else FULL)]
    found = [
        measure(*group, options)
        for group in watched(
            groups, options, lambda g: f"L = {g[0]}, {'unit feedback' if g[2] else 'default loop gain'}"
        )
    ]
    return Result([r for rows in found for r in rows], notes=[f"Batches of {BATCH}."])


def measure(depth: int, sizes: tuple[int, ...], unit: bool, options: Options) -> list[Row]:
    """A row for each size, all relative to blocks of 2."""
    subjects = {s: splitting(depth, s, unit, options.quick) for s in (*sizes, 2)}
    models = {s: subject.convert(subject.network(options)) for s, subject in subjects.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        works = {str(s): training_step(m, subjects[s].batch(options, BATCH)) for s, m in models.items()}
        found = race(works, options.times(), options.device)
    return [_row(subjects[s], found.ratio(str(s), "2"), models[s]) for s in subjects]


def _row(subject: Subject, spread: Spread, model: fc.FFEBM) -> Row:
    return {
        **subject.columns,
        **spread.columns,
        **relaxations(model),
    }
