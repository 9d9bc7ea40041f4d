"""The networks of the examples and benchmarks, with names that read well in a report.

A stage is a few convolutions with their activations; between two stages stand a pooling and a batch norm. The norm
comes before the first activation of the block that follows, so it trains on batch statistics, digitally, as in the
paper's networks; the convolutions and activations of a stage are what becomes an energy-based block.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn


class Clamp(nn.Hardtanh):
    """clamp(a, 0, 1)."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "clamp": Clamp, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}

GAINS = {"relu": math.sqrt(2), "clamp": math.sqrt(2), "tanh": 5 / 3, "sigmoid": 4.0}
"""How much an activation shrinks a signal about zero, undone by the initial weights: a sigmoid's slope is 1/4."""


def staged(
    layers: Sequence[int],
    widths: Sequence[int],
    classes: int = 10,
    activation: str = "relu",
    hidden: int = 0,
    channels: int = 3,
    pixels: int = 32,
    norm: bool = True,
    pooling: type[nn.Module] = nn.MaxPool2d,
) -> nn.Sequential:
    """Stages of 3 x 3 convolutions, the image halved between them, then a classifier.

    Args:
        layers, widths: weighted layers and channels of each stage.
        hidden: width of a hidden layer in the classifier; 0 for none.
        norm: batch norm of the images and after each pooling.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if norm:
        parts["norm0"] = nn.BatchNorm2d(channels)
    for k, (count, width) in enumerate(zip(layers, widths, strict=True), 1):
        for j in range(1, count + 1):
            parts[f"conv{k}_{j}"] = nn.Conv2d(channels, width, 3, padding=1)
            parts[f"act{k}_{j}"] = ACTIVATIONS[activation]()
            channels = width
        parts[f"pool{k}"] = pooling(2)
        pixels //= 2
        if norm:
            parts[f"norm{k}"] = nn.BatchNorm2d(width)
    parts["flatten"] = nn.Flatten()
    features = channels * pixels * pixels
    if hidden:
        parts["fc1"], parts["act_fc1"] = nn.Linear(features, hidden), ACTIVATIONS[activation]()
    parts["classifier"] = nn.Linear(hidden or features, classes)
    return nn.Sequential(parts)


def initialise(network: nn.Module, activation: str, generator: torch.Generator) -> nn.Module:
    """Normal weights of variance ``gain^2 / fan-in``, from ``generator``; zero biases, and the classifier at gain 1."""
    weighted = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for module in weighted:
        gain = 1.0 if module is weighted[-1] else GAINS[activation]
        fan_in = module.weight[0].numel()
        with torch.no_grad():
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * gain / math.sqrt(fan_in))
            if module.bias is not None:
                module.bias.zero_()
                if (
                    activation == "sigmoid" and module is not weighted[0]
                ):  # centres the sigmoid of inputs that are about 1/2
                    module.bias.sub_(0.5 * module.weight.flatten(1).sum(1))
    return network


def vgg(
    classes: int, generator: torch.Generator, widths: Sequence[int] = (32, 64, 128), hidden: int = 128
) -> nn.Module:
    """A VGG for 32 x 32 x 3 images: stages of two convolutions, a classifier of two layers."""
    return initialise(staged([2] * len(widths), widths, classes, hidden=hidden), "relu", generator)


VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")
"""Configuration A of Simonyan & Zisserman 2015, table 1."""


def vgg11_bn(generator: torch.Generator, classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """VGG-11 with batch norm, for images of 224 x 224 x 3 (Simonyan & Zisserman 2015)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for i, width in enumerate(VGG11):
        if isinstance(width, str):
            parts[f"pool{i}"] = nn.MaxPool2d(2)
            continue
        parts[f"conv{i}"] = nn.Conv2d(channels, width, 3, padding=1)
        parts[f"norm{i}"], parts[f"act{i}"] = nn.BatchNorm2d(width), nn.ReLU()
        channels = width
    parts["average"], parts["flatten"] = nn.AdaptiveAvgPool2d(7), nn.Flatten()
    for i, (a, b) in enumerate(((49 * channels, hidden), (hidden, hidden)), start=1):
        parts[f"fc{i}"], parts[f"fc{i}_act"], parts[f"dropout{i}"] = nn.Linear(a, b), nn.ReLU(), nn.Dropout()
    parts["classifier"] = nn.Linear(hidden, classes)
    return initialise(nn.Sequential(parts), "relu", generator)


STATIC_SIZES = (3, 2, 4, 2, 1, 3)
"""Weighted layers of the six blocks of the static experiment: fifteen in all."""


def fifteen_layers(
    generator: torch.Generator, widths: Sequence[int] = (32, 32, 64, 64, 128, 128), classes: int = 10
) -> nn.Module:
    """The static experiment's network: a feedforward block (norm, or pooling and norm) before each of six blocks of
    layers.
    """
    network = staged(STATIC_SIZES[:-1], widths[:-1], classes, hidden=0)
    parts = OrderedDict(network.named_children())
    del parts["flatten"], parts["classifier"]
    k, channels, width = len(STATIC_SIZES), widths[-2], widths[-1]
    for j in range(1, STATIC_SIZES[-1]):
        parts[f"conv{k}_{j}"] = nn.Conv2d(channels, width, 3, padding=1)
        parts[f"act{k}_{j}"] = nn.ReLU()
        channels = width
    parts["flatten"], parts["classifier"] = nn.Flatten(), nn.Linear(channels, classes)
    return initialise(nn.Sequential(parts), "relu", generator)


def benchmark_network(
    activation: str,
    generator: torch.Generator,
    channels: int,
    pixels: int,
    classes: int = 10,
    width: int = 16,
    pooling: type[nn.Module] = nn.AvgPool2d,
) -> nn.Module:
    """Six convolutions and a classifier of two layers, without norms, so that blocks of 2, 3 and 6 layers form."""
    network = staged(
        (2, 4),
        (width, 2 * width),
        classes,
        activation,
        hidden=64,
        channels=channels,
        pixels=pixels,
        norm=False,
        pooling=pooling,
    )
    return initialise(network, activation, generator)


def normed_network(
    generator: torch.Generator, channels: int, classes: int = 10, width: int = 16, depth: int = 6
) -> nn.Module:
    """Convolution, batch norm, ReLU, again and again, then the mean of the image and a classifier."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for j in range(1, depth + 1):
        parts[f"conv{j}"] = nn.Conv2d(channels if j == 1 else width, width, 3, padding=1, bias=False)
        parts[f"norm{j}"], parts[f"act{j}"] = nn.BatchNorm2d(width), nn.ReLU()
    parts["average"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["classifier"] = nn.Linear(width, classes)
    return initialise(nn.Sequential(parts), "relu", generator)
