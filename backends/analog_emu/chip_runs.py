"""A model on a chip: calibrated, and what a sample costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...chip.cost import Cost, CostModel, count, estimate
from ...errors import OptionError
from ...model.runner import Runner
from ...train import run_digital
from .calibration import first_sample, require_finite, take_ranges
from .noiseless import unobserved
from .substrate import ChipSubstrate, IdealChip


def calibrate(model: Runner, on: ChipSubstrate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Sets the ranges of a chip to what the ideal model takes; see :meth:`ffebm_compiler.AnalogFFEBM.calibrate`."""
    with model.in_mode(False), model.on(IdealChip(on.chip, from_devices=True)):
        _, settled = model.equilibrium(args, kwargs)
    require_finite(*(values for block in settled for values in (block.inputs, block.states)))
    on.example = first_sample((args, dict(kwargs)))
    on.chip.ranges.clear()
    on.chip.saturation.clear()
    for block in settled:
        take_ranges(on.chip, block.inputs, block.states)


def cost_of(
    model: Runner,
    on: ChipSubstrate,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    constants: CostModel | None,
    batch: int,
) -> Cost:
    """Energy, time and area of one sample; see :meth:`ffebm_compiler.AnalogFFEBM.cost`."""
    if batch < 1:
        raise OptionError.at("option batch", f"is {batch}", "Give a whole number from 1.")
    with model.in_mode(False), unobserved(on.chip), torch.no_grad():
        _, settled = model.equilibrium(args, kwargs)
        values = model.bind_inputs(args, kwargs)
        work = count(model.program, model.network, values, settled, run_digital, _samples(values))
    return estimate(work, on.hardware, constants, batch=batch)


def _samples(values: Mapping[str, Any]) -> int:
    sizes = [v.shape[0] for v in values.values() if isinstance(v, Tensor) and v.dim()]
    return sizes[0] if sizes else 1
