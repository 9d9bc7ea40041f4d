"""One network with its block size, its feedback and a batch: what a row of a table is about.

Networks at the default loop gain have ReLU and He's initial weights; those at unit feedback clamp(a, 0, 1) and half of
PyTorch's initial weights, which is the paper's clamp(a / 2, 0, 1) with all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.speed import networks as own
from benchmarks.speed.result import Options
from examples import networks
from examples.command import DEFAULT_LOOP_GAIN

MOST_SWEEPS = 1000
"""Unit feedback may take hundreds."""

GRADIENT_BATCH = 4
"""Samples of a comparison with the float64 oracle: the fewest that leave a batch norm on fully connected layers a
gradient.
"""


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: of the network: ``"splitting, L = 6"``.
        blocks: how its blocks are called in a table: ``"2"``.
        sizes: the arguments of ``convert`` that make them.
        build: the network, from nothing but PyTorch's random numbers.
        image: channels and sides of an input.
        classes: of the labels.
        unit: unit feedback, as in the paper, instead of the default loop gain.
        schedule: T1, T2 and the nudge of the paper's schedule: see :data:`SCHEDULES`.
        gradient_image: a smaller input for the comparison of gradients, where one is needed.
    """

    name: str
    blocks: str
    sizes: Mapping[str, Any]
    build: Callable[[], nn.Module]
    image: tuple[int, int, int]
    classes: int
    unit: bool
    schedule: tuple[int, int, float] = (60, 20, 0.1)
    gradient_image: tuple[int, int, int] | None = None

    @property
    def loop_gain(self) -> float | None:
        return None if self.unit else DEFAULT_LOOP_GAIN

    @property
    def feedback(self) -> str:
        return "unit" if self.unit else f"{DEFAULT_LOOP_GAIN:g}"

    @property
    def label(self) -> str:
        return f"{self.name}, blocks of {self.blocks}, {'unit feedback' if self.unit else f'loop gain {self.feedback}'}"

    @property
    def columns(self) -> dict[str, str]:
        """As columns of a table."""
        return {"network": self.name, "blocks": self.blocks, "feedback": self.feedback}

    def network(self, options: Options) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            net = self.build()
        if self.unit:
            _halve(net)
        else:
            networks.initialise(net, "relu", torch.Generator().manual_seed(options.seed))
        return common.as_trained(net).to(options.device).train()

    def convert(self, net: nn.Module, **changes: Any) -> fc.FFEBM:
        """The ff-EBM of a network, in its mode; ``changes`` are further options of ``convert``."""
        given = {**self.sizes, "loop_gain": self.loop_gain, "max_sweeps": MOST_SWEEPS, **changes}
        return fc.convert(net, **given).train(net.training)

    def batch(self, options: Options, size: int, gradient: bool = False) -> Batch:
        generator = torch.Generator().manual_seed(options.seed + 1)
        image = self.gradient_image or self.image if gradient else self.image
        x = torch.randn(size, *image, generator=generator)
        y = torch.randint(0, self.classes, (size,), generator=generator)
        return Batch(x.to(options.device), y.to(options.device))


def _halve(net: nn.Module) -> None:
    """Halves every layer before an activation, in place of halving the activation's slope: ``clamp(a / 2, 0, 1)`` is
    the paper's.
    """
    weighted = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for layer in weighted[:-1]:
            layer.weight.mul_(0.5)
            assert layer.bias is not None
            layer.bias.mul_(0.5)


@dataclass(frozen=True)
class Batch:
    """Images and labels."""

    x: Tensor
    y: Tensor

    def loss(self, output: Tensor) -> Tensor:
        return F.cross_entropy(output, self.y)

    def double(self) -> Batch:
        return Batch(self.x.double(), self.y)


RATE = 1e-4
"""Of SGD: a step must be taken, and the network must stay what it is."""


def training_step(
    model: nn.Module, batch: Batch, forward: Callable[[Tensor], Tensor] | None = None
) -> Callable[[], None]:
    """One step of training: forward, backward, SGD. ``forward`` stands in for calling the model."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    run = forward or model

    def step() -> None:
        optimizer.zero_grad()
        batch.loss(run(batch.x)).backward()
        optimizer.step()

    return step


def backprop(net: nn.Module, batch: Batch) -> Callable[[], None]:
    """A step of the feedforward network by itself."""
    return training_step(copy.deepcopy(net), batch)


# --- the table of networks --------------------------------------------------------------------------------


def _widths(quick: bool) -> dict[str, Any]:
    return {"channels": (16, 32, 32, 64, 64), "hidden": 32} if quick else {}


SMALL = (3, 32, 32)

SCHEDULES = {
    "L = 6": (60, 20, 0.1),
    "L = 12": (30, 10, 0.01),
    "L = 12, blocks of 4": (30, 10, 0.03),
    "scaling": (20, 10, 0.1),
    "static": (20, 10, 0.001),
}
"""T1, T2 and the nudge of the paper's schedule. The sweeps are such that more of them hardly change the error of its
gradient; the nudge is the one of 0.3, 0.1, 0.03, 0.01 and 0.001 with the least error at unit feedback.
"""


def splitting(depth: int, size: int, unit: bool, quick: bool = False) -> Subject:
    build = partial(own.stacked, own.SPLITTING[depth], size, "clamp" if unit else "relu", **_widths(quick))
    schedule = SCHEDULES.get(f"L = {depth}, blocks of {size}", SCHEDULES[f"L = {depth}"])
    return Subject(f"splitting, L = {depth}", str(size), {"block_size": size}, build, SMALL, 10, unit, schedule)


def scaling(unit: bool, quick: bool = False) -> Subject:
    build = partial(own.stacked, own.SCALING, 2, "clamp" if unit else "relu", **_widths(quick))
    return Subject("scaling, 15 layers", "2", {"block_size": 2}, build, SMALL, 10, unit, SCHEDULES["scaling"])


def static(unit: bool, quick: bool = False) -> Subject:
    """Fifteen layers in six blocks: of 2 at the default loop gain, of the paper's sizes at unit feedback."""
    widths = (8, 8, 8, 8, 8, 8) if quick else (32, 32, 64, 64, 128, 128)
    sizes: dict[str, Any] = {"block_sizes": networks.STATIC_SIZES} if unit else {"block_size": 2}
    build = partial(_static, widths, "clamp" if unit else "relu")
    return Subject("static, 15 layers", "1 to 4" if unit else "2", sizes, build, SMALL, 10, unit, SCHEDULES["static"])


def _static(widths: tuple[int, ...], activation: str) -> nn.Module:
    """The network of examples/static_gradients.py, with PyTorch's initial weights."""
    net = networks.fifteen_layers(torch.Generator().manual_seed(0), widths)
    for name, module in list(net.named_children()):
        if isinstance(module, nn.ReLU):
            setattr(net, name, networks.ACTIVATIONS[activation]())
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
    return net


def known(quick: bool = False) -> dict[str, Subject]:
    """Networks that everybody knows, in blocks of 2."""
    two = {"block_size": 2}
    side = 32 if quick else 224
    vgg = partial(_vgg11_bn, 256 if quick else 4096)
    resnet = partial(own.resnet18, 100, 16) if quick else own.resnet18
    transformer = partial(own.Transformer, 48, 3, 2) if quick else own.Transformer
    return {
        s.name: s
        for s in (
            Subject("vgg11_bn", "2", two, vgg, (3, side, side), 1000, False, gradient_image=(3, 32, 32)),
            Subject("resnet18", "2", two, resnet, (3, side, side), 100, False, gradient_image=(3, 64, 64)),
            Subject("MLP, 5 layers", "2", two, partial(own.mlp, 128 if quick else 1024), (1, 28, 28), 10, False),
            Subject("transformer, 4 layers", "2", two, transformer, SMALL, 10, False),
        )
    }


def _vgg11_bn(hidden: int) -> nn.Module:
    return networks.vgg11_bn(torch.Generator().manual_seed(0), 1000, hidden)


def paper(unit: bool, quick: bool = False) -> tuple[Subject, ...]:
    """The paper's networks."""
    sizes = ((6, 2),) if quick else ((6, 6), (6, 3), (6, 2), (12, 4), (12, 3), (12, 2))
    split = tuple(splitting(depth, size, unit, quick) for depth, size in sizes)
    return (*split, scaling(unit, quick), static(unit, quick))


__all__ = ["Batch", "Subject", "backprop", "known", "paper", "scaling", "splitting", "static", "training_step"]
