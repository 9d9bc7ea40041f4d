"""Calibrated ranges: how large each value gets on the ideal model, which converters and neurons are then set to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...chip.emulate import Chip, Range
from ...errors import InputError, Problem
from ...solve import relax
from ...torch_private import tree_map_only
from ...train import BlockCall

DIVERGED = (
    "Lower loop_gain=, or block_size=. Reverse gains follow the weights in training steps alone: "
    "convert the model anew where its weights were changed otherwise."
)

logger = logging.getLogger(__name__)


def require_finite(*values: Mapping[str, Any]) -> None:
    """Refuses values that no range covers.

    Raises:
        InputError: naming every one that is not finite.
    """
    bad = dict.fromkeys(n for n, v in _real(*values) if not bool(torch.isfinite(v).all()))
    InputError.raise_if(
        Problem(f"range of {name}", "is not finite: a block of the ideal model diverged on this input", DIVERGED)
        for name in bad
    )


def take_ranges(chip: Chip, *values: Mapping[str, Any]) -> None:
    """Widens the ranges of a chip to these values, by name."""
    for name, value in _real(*values):
        span = Range.covering(value, chip.hardware.calibration_quantile)
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
    states = relax(call.bound, call.tolerance).states
    require_finite(call.inputs, states)
    take_ranges(chip, call.inputs, states)
    chip.ranges.update(known)


def first_sample(inputs: Any) -> Any:
    """The first sample of every tensor of an input, without history."""
    return tree_map_only(Tensor, lambda v: v.detach()[:1].clone() if v.dim() else v, inputs)


def _real(*values: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in ((n, v) for some in values for n, v in some.items()):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield name, value
