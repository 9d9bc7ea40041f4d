"""Does training by BP-EP reach the accuracy of training by BP?"""

from __future__ import annotations

import argparse
import copy
import sys
import time
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
Trains each network twice from the same initial weights, on the same batches with the same optimizer: by
backpropagation, and, converted, by backpropagation and equilibrium propagation together. The accuracy on the
validation images, averaged over seeds, must agree within one point. With --norms the networks are of convolutions,
batch norms and ReLUs, trained from scratch with the options that convert() has by default, and must agree within three.

    python benchmarks/training.py
    python benchmarks/training.py --norms
    python benchmarks/training.py --data FOLDER --activations relu --seeds 1
"""
ALLOWED = 1.0
ALLOWED_WITH_NORMS = 3.0
"""Where norms are boundaries, a rounding in one step is another batch's statistics in the next: single runs differ by
more.
"""


def parser() -> argparse.ArgumentParser:
    p = common.parser("training.py", DESCRIPTION)
    common.add_data(p)
    common.add_networks(p)
    p.add_argument(
        "--block-sizes",
        type=command.listed(command.whole),
        default=[2],
        metavar="N,...",
        help="weighted layers of a block",
    )
    p.add_argument(
        "--loop-gain",
        type=command.positive,
        default=command.DEFAULT_LOOP_GAIN,
        help="bound on each coupling's loop gain",
    )
    p.add_argument("--norms", action="store_true", help="convolutions with batch norms and ReLU, from scratch")
    p.add_argument("--seeds", type=command.whole, default=3, help="runs of each kind, from --seed on")
    return p


def trained(task: common.Task, model: nn.Module, name: str, activation: str) -> tuple[float, float]:
    """Accuracy and seconds."""
    begun = time.perf_counter()
    task.train(model, name, common.RATES[activation])
    return task.accuracy(model), time.perf_counter() - begun


def _network(task: common.Task, activation: str, options: argparse.Namespace) -> nn.Module:
    if options.norms:
        return task.normed_network()
    return task.network(activation, pooling=common.POOLINGS[options.pooling])


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def compare(
    tasks: Sequence[common.Task], activation: str, options: argparse.Namespace, bar: Any
) -> list[dict[str, Any]]:
    """One row a block size: BP once a seed, BP-EP once a seed and size."""
    rows = []
    networks = [_network(t, activation, options) for t in tasks]
    digital = [
        trained(t, copy.deepcopy(n), f"{activation} BP", activation) for t, n in zip(tasks, networks, strict=True)
    ]
    bar.update(len(tasks))
    for size in options.block_sizes:
        runs = []
        for t, network in zip(tasks, networks, strict=True):
            model = fc.convert(network, block_size=size, loop_gain=options.loop_gain)
            runs.append(
                (*trained(t, model, f"{activation} BP-EP {size}", activation), t.accuracy(model.to_feedforward()))
            )
            bar.update()
        bp, ep = mean([a for a, _ in digital]), mean([a for a, _, _ in runs])
        rows.append(
            {
                "network": "relu, norms" if options.norms else activation,
                "block size": size,
                "BP": f"{bp:.2f}",
                "BP-EP": f"{ep:.2f}",
                "difference": f"{ep - bp:+.2f}",
                "BP-EP run feedforward": f"{mean([f for _, _, f in runs]):.2f}",
                "BP seconds": f"{mean([s for _, s in digital]):.0f}",
                "BP-EP seconds": f"{mean([s for _, s, _ in runs]):.0f}",
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    tasks = [
        common.task(options, steps=400, seed=options.seed + i) for i in range(1 if options.quick else options.seeds)
    ]
    activations = ["relu"] if options.norms else options.activations
    total = len(activations) * len(tasks) * (1 + len(options.block_sizes))
    rows: list[dict[str, Any]] = []
    with tqdm(total=total, desc="trainings", leave=False, disable=None) as bar, warnings.catch_warnings():
        warnings.simplefilter("once", fc.ConvergenceWarning)
        for activation in activations:
            rows += compare(tasks, activation, options, bar)
    allowed = ALLOWED_WITH_NORMS if options.norms else ALLOWED
    far = [r for r in rows if float(r["difference"]) < -allowed]
    first = tasks[0]
    note = (
        f"{first.images.name}, {len(first.data.train)} training and {len(first.data.valid)} validation images, "
        f"{first.epochs} epochs, {len(tasks)} seeds: {len(rows) - len(far)} of {len(rows)} within {allowed:g} "
        f"points of BP"
    )
    common.finish(options, "training", rows, [note], data=first.images.source)
    return 1 if far and not options.quick else 0


if __name__ == "__main__":
    command.run(main)
