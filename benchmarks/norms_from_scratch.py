"""Does a network with batch norms train from scratch as backpropagation trains it?

Six convolutions of 16 channels with batch norms and ReLUs learn scikit-learn's digits: SGD at 0.1, momentum 0.9,
batches of 64, 5 epochs. Each initial network is trained twice on the same batches: by backpropagation and, converted
with the default options, by backpropagation and equilibrium propagation together. The mean accuracies must agree
within three points.

A single run says nothing: at this rate training is chaotic. Initial weights that are moved by 1e-7, about one rounding,
change the accuracy of backpropagation itself by tens of points (--nearby shows it). So the means over many initial
weights are compared, each with its standard error.

    python -m benchmarks.norms_from_scratch
    python -m benchmarks.norms_from_scratch --runs 8 --nearby
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import ffebm_compiler as fc
from benchmarks import common
from examples import command

ALLOWED = 3.0
"""Points of accuracy that the converted model's mean may lie below that of backpropagation."""

TRAINED, BATCH, EPOCHS, QUICK_EPOCHS = 1200, 64, 5, 1
"""The first images train, the others validate."""

MOVED = 1e-7
"""Standard deviation of what --nearby adds to every initial weight."""

METHODS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "backpropagation": lambda network: network,
    "converted, default options": lambda network: fc.convert(network, block_size=2),
}


def parser() -> argparse.ArgumentParser:
    p = common.parser("norms_from_scratch.py", __doc__ or "")
    p.add_argument("--runs", type=command.whole, default=48, help="initial weights, from --seed on; at least 2")
    p.add_argument("--nearby", action="store_true", help=f"runs from the weights of --seed, each moved by {MOVED:g}")
    return p


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(6):
        convolution = nn.Conv2d(1 if i == 0 else 16, 16, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def initial(options: argparse.Namespace, run: int) -> nn.Module:
    """The network that a run starts from."""
    if not options.nearby:
        return network(options.seed + run)
    made, generator = network(options.seed), torch.Generator().manual_seed(run)
    with torch.no_grad():
        for weight in made.parameters():
            weight += MOVED * torch.randn(weight.shape, generator=generator)
    return made


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> float:
    """In per cent, on the images that a model was not trained on."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        order = torch.randperm(TRAINED, generator=generator)
        for batch in order[: TRAINED // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model.train()(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        right = model.eval()(images[TRAINED:]).argmax(1) == labels[TRAINED:]
    return 100 * float(right.float().mean())


def row(method: str, values: Sequence[float]) -> dict[str, Any]:
    return {
        "method": method,
        "runs": len(values),
        "accuracy, %": round(statistics.mean(values), 2),
        "standard error": round(standard_error(values), 2),
        "lowest": round(min(values), 2),
        "highest": round(max(values), 2),
    }


def standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    warnings.simplefilter("ignore", fc.ConvergenceWarning)
    digits = load_digits()
    images, labels = torch.tensor(digits.images[:, None], dtype=torch.float32), torch.tensor(digits.target)
    runs, epochs = (2, QUICK_EPOCHS) if options.quick else (max(2, options.runs), EPOCHS)
    reached: dict[str, list[float]] = {method: [] for method in METHODS}
    with tqdm(total=runs * len(METHODS), desc="trainings", leave=False, disable=None) as bar:
        for run in range(runs):
            for method, made in METHODS.items():
                reached[method].append(accuracy(made(initial(options, run)), images, labels, epochs))
                bar.update()
    backprop, converted = reached.values()
    difference = statistics.mean(converted) - statistics.mean(backprop)
    error = math.hypot(standard_error(backprop), standard_error(converted))
    within = difference >= -ALLOWED
    verdict = "not judged (one network):" if options.nearby else "met" if within else "MISSED"
    verdict += f" within {ALLOWED:g} points: {difference:+.2f} +- {error:.2f}"
    common.finish(options, "norms_from_scratch", [row(*item) for item in reached.items()], [verdict])
    return 0 if within or options.quick or options.nearby else 1


if __name__ == "__main__":
    command.run(main)
