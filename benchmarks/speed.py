"""What does an ff-EBM cost, in training steps and inferences of the feedforward network it came from?"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from examples import command, networks

DESCRIPTION = """
Times of a training step (forward, backward, optimizer) and of an inference of a VGG for 32 x 32 x 3 images, converted at
each block size, relative to a training step and an inference of the feedforward network. The two are timed in turn, in the
same run, and the median of the ratios is shown with the sweeps of the free and nudged phases.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/speed.py
"""
ESTIMATORS: dict[str, Any] = {
    "EP centered": fc.CenteredEP(),
    "EP one-sided": fc.OneSidedEP(),
    "EP tangent": fc.TangentEP(),
}


def parser() -> argparse.ArgumentParser:
    p = common.parser("speed.py", DESCRIPTION)
    p.add_argument(
        "--block-sizes",
        type=command.listed(command.whole),
        default=[1, 2, 3, 6],
        metavar="N,...",
        help="weighted layers of a block",
    )
    p.add_argument(
        "--widths",
        type=command.listed(command.whole),
        default=[32, 64, 128],
        metavar="N,...",
        help="channels of the VGG's stages",
    )
    p.add_argument("--batch", type=command.whole, default=32, help="images a batch")
    p.add_argument("--repeats", type=command.whole, default=7, help="times that each is timed")
    p.add_argument(
        "--loop-gain",
        type=command.positive,
        default=command.DEFAULT_LOOP_GAIN,
        help="bound on each coupling's loop gain",
    )
    p.add_argument(
        "--tolerance", type=command.positive, help="of the relaxations; by the type's precision if not given"
    )
    return p


def seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ratio(work: Callable[[], Any], reference: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median time of ``work`` in milliseconds, and median of its ratio to ``reference``, both timed in turn after a first run."""
    work(), reference()
    pairs = [(seconds(work), seconds(reference)) for _ in range(repeats)]
    return 1e3 * statistics.median(w for w, _ in pairs), statistics.median(w / r for w, r in pairs)


def trainer(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()

    return step


def server(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    def infer() -> None:
        with torch.no_grad():
            model.eval()(x)

    return infer


def measure(
    net: nn.Module, size: int, label: str, x: torch.Tensor, y: torch.Tensor, options: argparse.Namespace, repeats: int
) -> dict[str, Any]:
    model = fc.convert(
        net, block_size=size, loop_gain=options.loop_gain, estimator=ESTIMATORS[label], tolerance=options.tolerance
    )
    digital = copy.deepcopy(net)
    inference, inference_ratio = ratio(server(model, x), server(digital, x), repeats)
    step, step_ratio = ratio(trainer(model, x, y), trainer(digital, x, y), repeats)
    nudged = [r.sweeps for records in model.nudged_relaxation.values() for r in records]
    return {
        "block size": size, "estimator": label, "free sweeps": max((r.sweeps for r in model.relaxation), default=0), "nudged sweeps": max(nudged, default=0),
        "inference ms": f"{inference:.1f}", "to feedforward inference": f"{inference_ratio:.1f}", "step ms": f"{step:.1f}", "to BP step": f"{step_ratio:.1f}",
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    generator = torch.Generator().manual_seed(options.seed)
    widths, batch, repeats = ([8, 8, 8], 4, 1) if options.quick else (options.widths, options.batch, options.repeats)
    net = networks.vgg(10, generator, widths)
    x, y = torch.randn(batch, 3, 32, 32, generator=generator), torch.randint(0, 10, (batch,), generator=generator)
    rows = []
    with (
        tqdm(total=len(options.block_sizes) * len(ESTIMATORS), desc="timings", leave=False, disable=None) as bar,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("once", fc.ConvergenceWarning)
        for size in options.block_sizes:
            for label in ESTIMATORS:
                rows.append(measure(net, size, label, x, y, options, repeats))
                bar.update()
    common.finish(options, "speed", rows, [f"batch {batch}, {torch.get_num_threads()} threads, medians of {repeats}"])
    return 0


if __name__ == "__main__":
    command.run(main)
