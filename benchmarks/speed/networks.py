"""The networks whose steps are timed: the paper's (Nest & Ernoult, arXiv 2409.03306), and well-known ones.

*Splitting*: stages of 3 x 3 convolutions with 128-256-256-512-512 channels, max pooling after each, then fully
connected layers of 256 and a classifier; every stage has one layer at L = 6 and two at L = 12. *Scaling*: fifteen
layers on the same channels, in blocks of 2; how they are spread over the stages is our choice. A batch norm stands
before the first layer of each block, so these networks are made for a block size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples import networks

CHANNELS = (128, 256, 256, 512, 512)
HIDDEN = 256


def stacked(
    counts: Sequence[int],
    size: int,
    activation: str,
    channels: Sequence[int] = CHANNELS,
    hidden: int = HIDDEN,
    classes: int = 10,
) -> nn.Sequential:
    """A network of the paper's family for 32 x 32 x 3 images, without its initial weights.

    Args:
        counts: layers of each convolutional stage, and of the fully connected one.
        size: weighted layers of a block; a batch norm stands before layers 0, size, 2 size, ...
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    stages, before, layer = [*channels, hidden], 3, 0
    for k, (count, width) in enumerate(zip(counts, stages, strict=True), 1):
        flat = k == len(counts)
        if flat:
            parts["flatten"] = nn.Flatten()
        for j in range(1, count + 1):
            if layer % size == 0:
                parts[f"norm{k}_{j}"] = nn.BatchNorm1d(before) if flat else nn.BatchNorm2d(before)
            parts[f"{'fc' if flat else 'conv'}{k}_{j}"] = (
                nn.Linear(before, width) if flat else nn.Conv2d(before, width, 3, padding=1)
            )
            parts[f"act{k}_{j}"] = networks.ACTIVATIONS[activation]()
            before, layer = width, layer + 1
        if not flat:
            parts[f"pool{k}"] = nn.MaxPool2d(2)
    parts["classifier"] = nn.Linear(before, classes)
    return nn.Sequential(parts)


SPLITTING = {6: (1, 1, 1, 1, 1, 1), 12: (2, 2, 2, 2, 2, 2)}
SCALING = (2, 3, 3, 3, 3, 1)
"""Layers of each stage: fifteen in all."""


class Residual(nn.Module):
    """Two convolutions and a skip connection (He et al. 2016)."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        same = stride == 1 and before == width
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(inner + self.skip(x))  # type: ignore[no-any-return]


def resnet18(classes: int = 1000, width: int = 64) -> nn.Module:
    """ResNet-18 (He et al. 2016, table 1)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(3, width, 7, 2, 3, bias=False),
        norm=nn.BatchNorm2d(width),
        act=nn.ReLU(),
        pool=nn.MaxPool2d(3, 2, 1),
    )
    before = width
    for k in range(4):
        after = width << k
        parts[f"stage{k + 1}"] = nn.Sequential(Residual(before, after, 2 if k else 1), Residual(after, after, 1))
        before = after
    parts["average"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["classifier"] = nn.Linear(before, classes)
    return nn.Sequential(parts)


def mlp(width: int = 1024, depth: int = 4, classes: int = 10) -> nn.Module:
    """Fully connected layers of one width on images of 28 x 28."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    before = 784
    for k in range(1, depth + 1):
        parts[f"fc{k}"], parts[f"act{k}"] = nn.Linear(before, width), nn.ReLU()
        before = width
    parts["classifier"] = nn.Linear(before, classes)
    return nn.Sequential(parts)


class Transformer(nn.Module):
    """A small vision transformer: patches of 4 x 4, pre-norm layers, ReLU, the mean of the tokens (Dosovitskiy et al.
    2021).
    """

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 4, classes: int = 10):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, 64, width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(depth))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position  # (batch, 64, width)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.classifier(self.norm(tokens).mean(1))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention, and a perceptron of four times the width, each around a skip connection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2, self.fc1, self.act, self.fc2 = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.ReLU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]
