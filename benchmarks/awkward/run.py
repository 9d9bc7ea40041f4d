"""The verdicts on many models: in batches, on a few processes that live as long as the run, each model within a limit
of time.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .models import Awkward, drawn
from .verdict import SLOW, Verdict, judged

_BATCH = 10
"""Models that a process is given at a time."""


class _OutOfTime(BaseException):
    """No ``Exception``, which the conversion may catch to try something else."""


def verdicts(seeds: Iterable[int], processes: int, seconds: float, kept: Path | None = None) -> list[Verdict]:
    """The verdicts on the models of ``seeds``, in their order.

    Args:
        processes: how many at a time.
        seconds: that one model may take.
        kept: a file of verdicts, one a line: what stands there is not judged again, and what is judged is added to it.
    """
    seeds = list(seeds)
    found = _read(kept) if kept else {}
    left = [s for s in seeds if s not in found]
    batches = [left[i : i + _BATCH] for i in range(0, len(left), _BATCH)]
    context = multiprocessing.get_context("spawn")
    progress = tqdm(total=len(seeds), initial=len(seeds) - len(left), unit="model", file=sys.stderr)
    with progress, ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as workers:
        for done in as_completed([workers.submit(_judged, b, seconds) for b in batches]):
            for verdict in done.result():
                found[verdict.model.seed] = verdict
                if kept:
                    _add(kept, verdict)
                progress.update()
    return [found[s] for s in seeds]


def within(seconds: float, model: Awkward) -> Verdict:
    """The verdict on a model, or that there was none in time."""
    try:
        with _limited(seconds):
            return judged(model)
    except _OutOfTime:
        return Verdict(model, SLOW, f"no verdict within {seconds:g} seconds")


def _judged(seeds: Sequence[int], seconds: float) -> list[Verdict]:
    return [within(seconds, drawn(seed)) for seed in seeds]


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*given: Any) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _read(kept: Path) -> dict[int, Verdict]:
    lines = map(json.loads, kept.read_text().splitlines()) if kept.exists() else ()
    return {line["seed"]: Verdict(drawn(line["seed"]), line["outcome"], line["what"]) for line in lines}


def _add(kept: Path, verdict: Verdict) -> None:
    with kept.open("a") as file:
        file.write(json.dumps({"seed": verdict.model.seed, "outcome": verdict.outcome, "what": verdict.what}) + "\n")
