"""How close is the gradient of equilibrium propagation to the exact one?"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from examples import command, networks, training
from examples.data import as_32x32x3, digits, split
from examples.static_gradients import ESTIMATORS, JUDGED, REQUIRED, TYPES, ZERO

DESCRIPTION = """
The worst cosine over all parameters between the gradient of equilibrium propagation and automatic differentiation
through the equilibrium in float64: for a VGG in blocks of 2, 3 and 6 layers, at its initial weights and trained on
digits, and for the fifteen-layer network of examples/static_gradients.py. It must be at least 0.999 in float32 and
0.99999 in float64. A parameter whose exact gradient is zero must get less than 1e-4 of the largest gradient.

    python benchmarks/gradients.py
"""


def parser() -> argparse.ArgumentParser:
    p = common.parser("gradients.py", DESCRIPTION)
    p.add_argument(
        "--block-sizes",
        type=command.listed(command.whole),
        default=[2, 3, 6],
        metavar="N,...",
        help="weighted layers of a block",
    )
    p.add_argument(
        "--widths",
        type=command.listed(command.whole),
        default=[16, 32, 64],
        metavar="N,...",
        help="channels of the VGG's stages",
    )
    p.add_argument("--batch", type=command.whole, default=16, help="images in the batch")
    p.add_argument("--epochs", type=command.whole, default=3, help="of training on digits before the second comparison")
    p.add_argument(
        "--loop-gain",
        type=command.positive,
        default=command.DEFAULT_LOOP_GAIN,
        help="bound on each coupling's loop gain",
    )
    return p


def cases(options: argparse.Namespace) -> Iterator[tuple[str, nn.Module, dict[str, Any], torch.Tensor, torch.Tensor]]:
    """What is compared: name, network, partition, images, labels."""
    data = split(
        as_32x32x3(digits()), torch.Generator().manual_seed(options.seed), limit=100 if options.quick else None
    )
    x, y = next(data.training_batches(options.batch, torch.Generator().manual_seed(options.seed + 1)))
    fresh = networks.vgg(10, torch.Generator().manual_seed(options.seed + 2), options.widths)
    trained = copy.deepcopy(fresh)
    training.fit(
        trained,
        data,
        training.Stage("training the VGG", 4 if options.quick else options.epochs, 32, 1e-3, options.seed),
    )
    for state, net in (("initial", fresh), ("trained", trained)):
        for size in options.block_sizes:
            yield f"VGG, {state}", net, {"block_size": size}, x, y
    generator = torch.Generator().manual_seed(options.seed + 3)
    static = networks.fifteen_layers(generator, [8] * 6 if options.quick else (32, 32, 64, 64, 128, 128))
    x, y = (
        torch.randn(options.batch, 3, 32, 32, generator=generator),
        torch.randint(0, 10, (options.batch,), generator=generator),
    )
    yield "fifteen layers", static, {"block_sizes": networks.STATIC_SIZES}, x, y


def compare(
    name: str, net: nn.Module, partition: dict[str, Any], x: torch.Tensor, y: torch.Tensor, loop_gain: float, bar: Any
) -> list[dict[str, Any]]:
    rows = []
    model = fc.convert(net, **partition, loop_gain=loop_gain).train()
    sizes = "/".join(str(b.size) for b in model.blocks)
    for kind, dtype in TYPES.items():
        typed = copy.deepcopy(model).to(dtype)
        for label in JUDGED:
            with typed.using(estimator=ESTIMATORS[label]):
                found = fc.compare_gradients(typed, x.to(dtype), y, F.cross_entropy)
            failing, worst = found.failing(REQUIRED[kind], ZERO), found.worst
            rows.append(
                {
                    "network": name,
                    "blocks": sizes,
                    "type": kind,
                    "estimator": label,
                    "worst cosine": f"{worst.cosine:.9f}",
                    "relative error": f"{worst.error:.1e}",
                    "at": worst.name,
                    "verdict": f"below {REQUIRED[kind]}: {len(failing)} parameters" if failing else "ok",
                }
            )
            bar.update()
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.quick:
        options.block_sizes, options.widths, options.batch = options.block_sizes[:1], [8, 8, 8], 4
    common.start(options)
    rows: list[dict[str, Any]] = []
    total = (2 * len(options.block_sizes) + 1) * len(TYPES) * len(JUDGED)
    with tqdm(total=total, desc="comparisons", leave=False, disable=None) as bar:
        for case in cases(options):
            rows += compare(*case, options.loop_gain, bar)
    far = [r for r in rows if r["verdict"] != "ok"]
    common.finish(
        options, "gradients", rows, [f"{len(rows) - len(far)} of {len(rows)} comparisons as close as required"]
    )
    return 1 if far else 0


if __name__ == "__main__":
    command.run(main)
