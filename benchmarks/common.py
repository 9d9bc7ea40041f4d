"""What the benchmarks share: where the data is, networks that are trained once, a table and a JSON file at the end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from examples import command, networks, records, training
from examples.data import FORMATS, Images, Split, load, split
from examples.training import Progress, Stage

ADVICE = (
    "On a machine that others use too, set OMP_WAIT_POLICY=PASSIVE: waiting threads then sleep instead of spinning."
)


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    return command.command(name, f"{description.rstrip()}\n\n{ADVICE}", f"runs/benchmarks/{Path(name).stem}")


def add_data(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help=f"images; scikit-learn's digits if not given. {' '.join(FORMATS.splitlines())}",
    )
    p.add_argument("--limit", type=command.whole, help="use at most so many images")
    p.add_argument("--epochs", type=command.whole, help="of training; chosen by the number of images if not given")
    p.add_argument("--batch", type=command.whole, default=64, help="images a batch")


POOLINGS: dict[str, type[nn.Module]] = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


def activation(text: str) -> str:
    """The name of a known activation."""
    if text not in networks.ACTIVATIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(networks.ACTIVATIONS)}")
    return text


def add_networks(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--activations",
        type=command.listed(activation),
        default=list(networks.ACTIVATIONS),
        metavar="NAME,...",
        help="which networks",
    )
    p.add_argument("--pooling", choices=tuple(POOLINGS), default="average", help="between the convolutions")


def as_trained(network: nn.Module) -> nn.Module:
    """The same network, its norms counted as trained and so held inside blocks; their statistics stay 0 and 1, whatever
    the weights.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.num_batches_tracked is not None
            module.num_batches_tracked.fill_(1000)
    return network


@dataclass(frozen=True)
class Task:
    """A data set, split, and how long a network trains on it."""

    images: Images
    data: Split
    epochs: int
    batch: int
    seed: int

    def network(self, activation: str, width: int = 16, pooling: type[nn.Module] = nn.AvgPool2d) -> nn.Module:
        x = self.images.x
        generator = torch.Generator().manual_seed(self.seed + 1)
        return networks.benchmark_network(
            activation, generator, x.shape[1], x.shape[2], self.images.classes, width, pooling
        )

    def normed_network(self) -> nn.Module:
        generator = torch.Generator().manual_seed(self.seed + 1)
        return networks.normed_network(generator, self.images.x.shape[1], self.images.classes)

    def train(self, model: nn.Module, name: str, rate: float) -> Progress:
        return training.fit(model, self.data, Stage(name, self.epochs, self.batch, rate, self.seed))

    def accuracy(self, model: nn.Module) -> float:
        return training.accuracy(model, self.data)


RATES = {"relu": 1e-3, "clamp": 2e-3, "tanh": 1e-3, "sigmoid": 3e-3}
"""Adam's learning rate for each activation; the same for BP and BP-EP."""


def task(options: argparse.Namespace, steps: int = 900, seed: int | None = None) -> Task:
    """The task that the options ask for; about ``steps`` batches unless they say how many epochs."""
    images, seed = load(options.data), options.seed if seed is None else seed
    limit = 300 if options.quick else options.limit
    data = split(images, torch.Generator().manual_seed(seed), limit=limit)
    epochs = 1 if options.quick else options.epochs or max(3, round(steps * options.batch / len(data.train)))
    return Task(images, data, epochs, options.batch, seed)


def start(options: argparse.Namespace) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def finish(
    options: argparse.Namespace, name: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = (), **facts: Any
) -> None:
    """Prints the table and the notes, and writes them with configuration and versions."""
    print(records.table(rows))
    for note in notes:
        print(note)
    config = {k: v for k, v in vars(options).items() if k != "out"}
    path = records.write_json(
        options.out / f"{name}.json",
        {"config": config, "versions": records.versions(), **facts, "rows": rows, "notes": notes},
    )
    print(f"written to {path}")
