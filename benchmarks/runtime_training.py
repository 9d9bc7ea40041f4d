"""Does a loaded bundle train as the torch executor does?"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from examples import command
from examples.data import load
from ffebm_compiler import runtime
from ffebm_compiler.bundle.run import Runtime

DESCRIPTION = """
Trains two networks on scikit-learn's digits from the same weights, on the same batches, by SGD with momentum and by
Adam: by the torch executor (automatic differentiation of digital parts and interactions, loss.backward()), and by the
runtime from a bundle (ONNX graphs of the vector-Jacobian products, equilibrium propagation with derived code). The
losses of each step must agree within 1e-4. Beside them stands what separates the executor in float32 from itself in
float64: one value that rounding puts on the other side of a kink sets two trainings apart.

    python benchmarks/runtime_training.py
    python benchmarks/runtime_training.py --quick
"""
ALLOWED = 1e-4
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.02, "momentum": 0.9},
    "adam": {"learning_rate": 1e-3},
}


def convolutional() -> nn.Sequential:
    """Two convolutions with batch norms and pooling, then two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10),
    )  # fmt: skip


def perceptron() -> nn.Sequential:
    """Three linear layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))


NETWORKS = {"convolutional": convolutional, "perceptron": perceptron}


@dataclass(frozen=True)
class Curve:
    """The losses of a training, and the seconds that its steps took; the first one, which derives and loads,
    left out.
    """

    losses: tuple[float, ...]
    seconds: float


def batches(seed: int, count: int, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """The same batches of digits for everyone."""
    images = load(None)
    x, y = images.x.float() / images.x.max(), images.y
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.randint(0, len(x), (size,), generator=generator) for _ in range(count))
    return [(x[i], y[i]) for i in chosen]


def by_executor(net: nn.Module, name: str, data: Sequence[tuple[Tensor, Tensor]]) -> Curve:
    """``loss.backward()`` and the optimizer, as in any training."""
    model, options = fc.convert(net, block_size=2).train(), OPTIMIZERS[name]
    rate, rest = options["learning_rate"], {k: v for k, v in options.items() if k != "learning_rate"}
    optimizer = (torch.optim.SGD if name == "sgd" else torch.optim.Adam)(model.parameters(), lr=rate, **rest)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return _curve(step, data)


def by_runtime(loaded: Runtime, name: str, data: Sequence[tuple[Tensor, Tensor]]) -> Curve:
    """The bundle's trainer."""
    return _curve(loaded.trainer("cross_entropy", name, **OPTIMIZERS[name]).step, data)


def _curve(step: Any, data: Sequence[tuple[Tensor, Tensor]]) -> Curve:
    losses = [float(step(*data[0]))]
    begun = time.perf_counter()
    losses += [float(step(x, y)) for x, y in data[1:]]
    return Curve(tuple(losses), time.perf_counter() - begun)


def largest_difference(one: Curve, other: Curve) -> float:
    return max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def compare(network: str, name: str, seed: int, steps: int) -> dict[str, Any]:
    """One row: a network and an optimizer."""
    data = batches(seed, steps)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        net = NETWORKS[network]()
        path = fc.convert(net, block_size=2).compile_to(Path(folder, "bundle"), data[0][0][:4])
        theirs, ours = by_executor(net, name, data), by_runtime(runtime.load(path), name, data)
        exact = by_executor(copy.deepcopy(net).double(), name, [(x.double(), y) for x, y in data])
    return {
        "network": network,
        "optimizer": name,
        "steps": steps,
        "first loss": f"{ours.losses[0]:.4f}",
        "last loss": f"{ours.losses[-1]:.4f}",
        "largest difference": largest_difference(theirs, ours),
        "executor's rounding": largest_difference(theirs, exact),
        "ms a step": f"{1e3 * ours.seconds / (steps - 1):.1f}",
        "times the executor's": f"{ours.seconds / theirs.seconds:.2f}",
    }


def rows_of(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    choices = list(itertools.product(NETWORKS, OPTIMIZERS))
    for network, name in tqdm(choices, desc="trainings", leave=False, disable=None):
        yield compare(network, name, options.seed, 20 if options.quick else options.steps)


def parser() -> argparse.ArgumentParser:
    p = common.parser("runtime_training.py", DESCRIPTION)
    p.add_argument("--steps", type=command.whole, default=100, help="of each training")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    rows = list(rows_of(options))
    far = [r for r in rows if not r["largest difference"] <= ALLOWED]
    shown = [{**r, **{c: f"{r[c]:.1e}" for c in ("largest difference", "executor's rounding")}} for r in rows]
    common.finish(
        options,
        "runtime_training",
        shown,
        [f"{len(rows) - len(far)} of {len(rows)} loss curves agree within {ALLOWED:g}"],
    )
    return 1 if far else 0


if __name__ == "__main__":
    command.run(main)
