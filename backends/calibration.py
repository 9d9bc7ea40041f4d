"""Calibrated ranges: how large each value gets on the ideal model, which converters and neurons are then set to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..emulate import Chip, Range
from ..solve import relax
from ..train import BlockCall

logger = logging.getLogger(__name__)


def take_ranges(chip: Chip, *values: Mapping[str, Any]) -> None:
    """Widens the ranges of a chip to these values, by name."""
    for name, value in _real(*values):
        span = Range.of(value, chip.hardware.calibration_quantile)
        known = chip.ranges.get(name)
        chip.ranges[name] = span if known is None else known.joined(span)


def ensure_ranges(chip: Chip, call: BlockCall) -> None:
    """Gives a block the ranges of the batch that it is called with, where it has none."""
    names = [*(s.name for s in call.block.states), *(n for n, _ in _real(call.inputs))]
    if all(n in chip.ranges for n in names):
        return
    logger.info(
        "%s: its ranges are those of the first batch; calibrate(x) sets them from data of your choice", call.block.name
    )
    known = dict(chip.ranges)
    take_ranges(chip, call.inputs, relax(call.bound, call.tolerance).states)
    chip.ranges.update(known)


def first_sample(inputs: Any) -> Any:
    """The first sample of every tensor of an input, without history."""
    return torch.utils._pytree.tree_map_only(Tensor, lambda v: v.detach()[:1].clone() if v.dim() else v, inputs)


def _real(*values: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in ((n, v) for some in values for n, v in some.items()):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield name, value
