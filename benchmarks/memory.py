"""Does the memory of a training step grow with the number of sweeps?"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from examples import command, networks
from ffebm_compiler.estimate import Estimator

DESCRIPTION = """
The peak memory of one training step (forward and backward) of a VGG in blocks of six layers, for a growing number of
sweeps: by equilibrium propagation, whose memory must stay flat, and by automatic differentiation through the
relaxation. Each measurement is a process of its own: its peak resident memory after the step, less that before it.

    python benchmarks/memory.py
"""
ESTIMATORS = ("EP centered", "unrolled")
ALLOWED = 1.25
"""EP's memory at the most sweeps, relative to that at the fewest: what an allocator leaves to chance is a tenth or two."""


def parser() -> argparse.ArgumentParser:
    p = common.parser("memory.py", DESCRIPTION)
    p.add_argument(
        "--sweeps",
        type=command.listed(command.whole),
        default=[4, 8, 16, 32, 64],
        metavar="N,...",
        help="sweeps of each phase",
    )
    p.add_argument("--batch", type=command.whole, default=32, help="images in the batch")
    p.add_argument("--block-size", type=command.whole, default=6, help="weighted layers of a block")
    p.add_argument(
        "--loop-gain",
        type=command.positive,
        default=0.2,
        help="large enough that the relaxation still moves after many sweeps",
    )
    return p


def resident() -> float:
    """Peak resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage counts the parent's peak too
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / (1 << 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)


def step(
    estimator: str, sweeps: int, batch: int, block_size: int, loop_gain: float, seed: int
) -> tuple[float, int, int]:
    """Peak memory of a training step in MiB, and the sweeps that its free and nudged phases took."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    net = networks.vgg(10, generator, (16, 32, 64)).double()
    chosen: Estimator = fc.Unrolled(sweeps) if estimator == "unrolled" else fc.CenteredEP()
    model = fc.convert(
        net,
        block_size=block_size,
        loop_gain=loop_gain,
        estimator=chosen,
        tolerance=1e-300,
        max_sweeps=sweeps,
        norm="held",
    ).train()
    x = torch.randn(batch, 3, 32, 32, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 10, (batch,), generator=generator)
    warnings.simplefilter("ignore", fc.ConvergenceWarning)
    with torch.no_grad():
        model(x[:1])  # gains and caches
    before = resident()
    F.cross_entropy(model(x), y).backward()
    nudged = [r.sweeps for records in model.nudged_relaxation.values() for r in records]
    return resident() - before, max(r.sweeps for r in model.relaxation), max(nudged, default=0)


def measure(*arguments: Any) -> tuple[float, int, int]:
    """The same in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(step, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    sweeps, batch = ([2, 8], 8) if options.quick else (sorted(set(options.sweeps)), options.batch)
    rows = []
    with tqdm(total=len(ESTIMATORS) * len(sweeps), desc="processes", leave=False, disable=None) as bar:
        for estimator in ESTIMATORS:
            for n in sweeps:
                peak, free, nudged = measure(estimator, n, batch, options.block_size, options.loop_gain, options.seed)
                rows.append(
                    {
                        "estimator": estimator,
                        "sweeps": n,
                        "free": free,
                        "nudged": nudged or "",
                        "peak MiB": f"{peak:.0f}",
                    }
                )
                bar.update()
    growth = {e: _growth([float(r["peak MiB"]) for r in rows if r["estimator"] == e]) for e in ESTIMATORS}
    notes = [f"{e}: {sweeps[-1]} sweeps take {g:.2f} times the memory of {sweeps[0]}" for e, g in growth.items()]
    common.finish(options, "memory", rows, notes)
    return 1 if growth["EP centered"] > ALLOWED and not options.quick else 0


def _growth(peaks: Sequence[float]) -> float:
    return peaks[-1] / max(peaks[0], 1.0)


if __name__ == "__main__":
    command.run(main)
