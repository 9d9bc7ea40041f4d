"""The peak memory of a training step in that of a backprop step, at a growing number of sweeps.

Each measurement is a process of its own: its peak resident memory after the step less that before it (on CUDA, what
PyTorch had allocated at most). A tolerance that is never reached makes every phase take all its sweeps. Automatic
differentiation through the relaxation stands beside it.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.baselines import chain
from benchmarks.baselines.automatic import Recorded
from benchmarks.speed.progress import watched
from benchmarks.speed.result import Goal, Options, Result, Row
from benchmarks.speed.subjects import Batch, training_step
from examples import networks

BACKPROP, OURS, RECORDED = "backprop", "BP-EP", "recorded"
SWEEPS = (10, 100, 1000)
LONGEST_RECORDED = 100
"""Sweeps that are recorded at most: ten times as many would take ten times the memory."""

ALLOWED = 1.5
NEVER = 1e-30
"""A tolerance that float32 does not reach."""

EXACT_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Memory that is freed goes back to the system at once (glibc), so that resident memory is what is in use."""


@dataclass(frozen=True)
class Measurement:
    """One process."""

    way: str
    sweeps: int
    quick: bool
    device: str
    threads: int
    seed: int


@dataclass(frozen=True)
class Found:
    """What it found: the peak in MiB, and the sweeps of the phases."""

    peak: float
    free: int
    nudged: int


def run(options: Options) -> Result:
    sweeps = (2, 8) if options.quick else SWEEPS
    wanted = [(BACKPROP, 0), *((OURS, n) for n in sweeps), *((RECORDED, n) for n in sweeps if n <= LONGEST_RECORDED)]
    cases = [Measurement(w, n, options.quick, options.device, options.threads, options.seed) for w, n in wanted]
    found = {c: in_a_process(c) for c in watched(cases, options, lambda c: f"{c.way}, {c.sweeps} sweeps")}
    base = found[cases[0]].peak
    rows = [_row(c, f, base) for c, f in found.items()]
    ours = [r for r in rows if r["way"] == OURS]
    worst = max(r["ratio"] for r in ours)
    growth = ours[-1]["peak MiB"] / ours[0]["peak MiB"]
    image = "x".join(map(str, _image(options.quick)))
    return Result(
        rows,
        [
            Goal("peak memory of a training step in backprop's, the most over all numbers of sweeps", worst, ALLOWED),
            Goal(f"the same at {sweeps[-1]} sweeps in that at {sweeps[0]}", growth, 1.25),
        ],
        [
            f"A VGG with average pooling in blocks of 2, images of {image}, float32, loop gain 0.2, each phase all "
            f"of its sweeps."
        ],
    )


def _row(case: Measurement, found: Found, base: float) -> Row:
    return {
        "way": case.way,
        "sweeps": case.sweeps or "",
        "free sweeps": found.free or "",
        "nudged sweeps": found.nudged or "",
        "peak MiB": found.peak,
        "ratio": found.peak / base,
    }


def in_a_process(case: Measurement) -> Found:
    """The same in a fresh process with an allocator that gives back what is free."""
    fresh = multiprocessing.get_context("spawn")
    with _environment(EXACT_ALLOCATOR), ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(measure, case).result()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure(case: Measurement) -> Found:
    """One training step, and what it took beyond what was there before."""
    torch.set_num_threads(case.threads)
    warnings.simplefilter("ignore", fc.ConvergenceWarning)
    generator = torch.Generator().manual_seed(case.seed)
    net = common.as_trained(_network(case.quick, generator)).to(case.device)
    image, count = _image(case.quick), 4 if case.quick else 8
    x = torch.randn(count, *image, generator=generator).to(case.device)
    y = torch.randint(0, 10, (count,), generator=generator).to(case.device)
    model, step = prepared(case, net, Batch(x, y))
    before = _used(case.device)
    step()
    peak = _used(case.device) - before
    if not isinstance(model, fc.FFEBM) or case.way == RECORDED:
        return Found(peak, 0, 0)
    nudged = [r.sweeps for records in model.nudged_relaxation.values() for r in records]
    return Found(peak, max(r.sweeps for r in model.relaxation), max(nudged, default=0))


def prepared(case: Measurement, net: nn.Module, batch: Batch) -> tuple[nn.Module, Callable[[], None]]:
    """The model and its step, after an inference of one sample that measures gains and fills caches."""
    if case.way == BACKPROP:
        model: nn.Module = copy.deepcopy(net)
    else:
        model = fc.convert(net, block_size=2, loop_gain=0.2, tolerance=NEVER, max_sweeps=case.sweeps)
    with torch.no_grad():
        model.eval()(batch.x[:1])
        model.train()(batch.x[:2])
    if case.way == RECORDED:
        assert isinstance(model, fc.FFEBM)
        recorded = chain.settled_by(model, Recorded(case.sweeps))
        own = model
        return model, training_step(model, batch, lambda x: chain.run(own, x, recorded))
    return model, training_step(model, batch)


def _network(quick: bool, generator: torch.Generator) -> nn.Module:
    widths = (4, 8, 16) if quick else (8, 16, 32)
    staged = networks.staged([2] * len(widths), widths, 10, hidden=64, pixels=_image(quick)[1], pooling=nn.AvgPool2d)
    return networks.initialise(staged, "relu", generator)


def _image(quick: bool) -> tuple[int, int, int]:
    """Large images and few channels: much memory for little work."""
    return (3, 64, 64) if quick else (3, 128, 128)


def _used(device: str) -> float:
    """The most memory that this process has used so far, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / (1 << 20)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage counts the parent's peak too
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / (1 << 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)


__all__: Sequence[str] = ["Measurement", "measure", "run"]
