"""Do trained networks keep their accuracy when they are converted?"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from examples import command

DESCRIPTION = """
Trains a network of six convolutions and two linear layers with each activation, converts it at each block size and loop
gain, and compares the accuracy on the validation images with the original's. At the default loop gain it must be within
half a point; the sweeps show what convergence costs.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --data FOLDER             MNIST from its standard files
"""
ALLOWED = 0.5


def parser() -> argparse.ArgumentParser:
    p = common.parser("accuracy.py", DESCRIPTION)
    common.add_data(p)
    common.add_networks(p)
    p.add_argument(
        "--block-sizes",
        type=command.listed(command.whole),
        default=[2, 3, 6],
        metavar="N,...",
        help="weighted layers of a block",
    )
    p.add_argument(
        "--loop-gains",
        type=command.listed(command.positive),
        default=[0.001, command.DEFAULT_LOOP_GAIN, 0.03, 0.1, 0.25, 1.0],
        metavar="G,...",
        help="bounds to try; the default of convert() is judged",
    )
    return p


def measure(task: common.Task, net: nn.Module, original: float, block_size: int, loop_gain: float) -> dict[str, Any]:
    """Accuracy, sweeps and convergence of one conversion."""
    model = fc.convert(net, block_size=block_size, loop_gain=loop_gain).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        converted = task.accuracy(model)
    blocks = [r for r in model.relaxation if r.sweeps > 1]
    return {
        "block size": block_size,
        "loop gain": loop_gain,
        "original": f"{original:.2f}",
        "converted": f"{converted:.2f}",
        "change": f"{converted - original:+.2f}",
        "most sweeps": max((r.sweeps for r in blocks), default=1),
        "converged": "yes" if all(r.converged for r in blocks) else "no",
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    task = common.task(options)
    gains = sorted({command.DEFAULT_LOOP_GAIN, *([] if options.quick else options.loop_gains)})
    rows = []
    with tqdm(
        total=len(options.activations) * len(options.block_sizes) * len(gains),
        desc="conversions",
        leave=False,
        disable=None,
    ) as bar:
        for activation in options.activations:
            net = task.network(activation, pooling=common.POOLINGS[options.pooling])
            task.train(net, activation, common.RATES[activation])
            original = task.accuracy(net)
            for size in options.block_sizes:
                for gain in gains:
                    rows.append({"activation": activation, **measure(task, net, original, size, gain)})
                    bar.update()
    judged = [r for r in rows if r["loop gain"] == command.DEFAULT_LOOP_GAIN]
    far = [r for r in judged if abs(float(r["change"])) > ALLOWED or r["converged"] == "no"]
    note = (
        f"{task.images.name}, {len(task.data.valid)} validation images, {task.epochs} epochs: "
        f"{len(judged) - len(far)} of {len(judged)} converted networks within {ALLOWED} points at the default "
        f"loop gain {command.DEFAULT_LOOP_GAIN}"
    )
    common.finish(options, "accuracy", rows, [note], data=task.images.source)
    return 1 if far and not options.quick else 0


if __name__ == "__main__":
    command.run(main)
