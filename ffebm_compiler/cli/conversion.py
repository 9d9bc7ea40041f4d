"""What the commands share: the model that the options ask for, and its example inputs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..api import convert
from ..ffebm import FFEBM

OPTIONS = ("block_size", "block_sizes", "digital", "analog", "norm", "loop_gain", "tolerance", "max_sweeps")
"""Those of a conversion, as :func:`ffebm_compiler.convert` names them."""

Shape = tuple[tuple[int, ...], int | None]
"""Sizes, the batch first; for whole numbers, what they are below."""


def conversion_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the conversion."""
    return {name: getattr(options, name) for name in OPTIONS}


def converted(
    network: nn.Module, options: argparse.Namespace, inputs: tuple[Tensor, ...] | None, block_size: int | None = None
) -> FFEBM:
    """The converted model; ``block_size`` takes the place of what the options say."""
    sizes = {} if block_size is None else {"block_size": block_size, "block_sizes": None}
    return convert(network, example_inputs=inputs, **{**conversion_of(options), **sizes})


def measured(model: FFEBM, inputs: tuple[Tensor, ...] | None) -> FFEBM:
    """The model after a pass of the inputs, if there are any, which measures its gains; no statistics move."""
    if inputs is not None:
        training = model.training
        model.eval().equilibrium(*inputs)
        model.train(training)
    return model


def example_inputs(options: argparse.Namespace, batch: int | None = None) -> tuple[Tensor, ...] | None:
    """Random inputs of ``--input-shape``; ``batch`` replaces the number of samples."""
    return random_inputs(options.input_shape, options.seed, batch) if options.input_shape else None


def random_inputs(shapes: Sequence[Shape], seed: int, batch: int | None = None) -> tuple[Tensor, ...]:
    """Normal numbers, or whole numbers below a limit."""
    generator = torch.Generator().manual_seed(seed)
    sized = [((batch, *sizes[1:]) if batch else sizes, below) for sizes, below in shapes]
    return tuple(
        torch.randn(sizes, generator=generator) if below is None else torch.randint(below, sizes, generator=generator)
        for sizes, below in sized
    )
