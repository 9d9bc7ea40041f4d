"""Energy-based blocks on an emulated chip.

Inference converts what enters a block (DAC), lets the block settle with the weights that the chip's devices amount to,
and converts what leaves it (ADC). The gradient is what the converters read in two nudged phases. Weights that an
optimizer has changed are written to the devices before the next use.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ...chip.emulate import Chip, OnChip, driven, quantised
from ...chip.hardware import Hardware
from ...chip.resistive import realise
from ...errors import Problem
from ...ir import EnergyBlock
from ...model.bound_model import BoundModel
from ...model.runner import Runner
from ...model.substrate import LayerWeights
from ...solve import Relaxation
from ...solve.norm_sample import one_sample
from ...train import BlockCall, out_of_sight
from ..torch_ep import TorchEP
from . import training_step
from .block_parts import Uses
from .calibration import ensure_ranges

NO_SCRIPT = Problem(
    "write_training_loop",
    "writes a script that trains without a chip",
    "Call it on the converted model, or call training_step on this one in a loop of your own.",
)


class ChipSubstrate:
    """A chip, and what blocks have used of it.

    Attributes:
        chip: devices, mismatches, ranges, and the generator of noise.
        example: the first sample of what the chip was calibrated on, as (args, kwargs).
    """

    refused: Mapping[str, Problem] = MappingProxyType({"write_training_loop": NO_SCRIPT})

    def __init__(self, chip: Chip):
        self.chip = chip
        self.example: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._uses = Uses()

    @property
    def hardware(self) -> Hardware:
        return self.chip.hardware

    def block_call(self, call: BlockCall, model: BoundModel) -> BlockCall:
        """One use of a block on the chip: its inputs through the DAC, its outputs through the ADC."""
        ensure_ranges(self.chip, call)
        self.chip.hold(call.block, call.weights)
        call = replace(call, inputs=self._driven(call))
        use, sample = self._uses.use(self.chip, call, model.training), self.chip.sample()
        return replace(
            call,
            layer_weights=use.layer_weights,
            estimator=OnChip(use.phases, sample),
            settle=lambda bound, tolerance: use.phases.free(bound, tolerance, sample.phase()),
            read=self._converted,
        )

    def _driven(self, call: BlockCall) -> dict[str, Any]:
        """What enters a block, through the DAC."""
        bits, entered = self.hardware.dac_bits, dict[str, Any](call.inputs)
        for name in call.block.inputs:
            value = call.inputs[name]
            if isinstance(value, Tensor) and value.is_floating_point():
                span = self.chip.ranges[name]
                self.chip.count(f"DAC {name}", value, bits, span)
                entered[name] = driven(value, bits, span)
        return entered

    def _converted(self, name: str, state: Tensor) -> Tensor:
        """What leaves a block, through the ADC."""
        bits, span = self.hardware.adc_bits, self.chip.ranges[name]
        self.chip.count(f"ADC {name}", state, bits, span)
        return quantised(state, bits, span)

    def ideal(self) -> IdealChip:
        return IdealChip(self.chip)

    def gradient_source(self, model: BoundModel) -> str:
        return f"chip {self.chip.seed} of {self.hardware.name}"

    def training_code(self, model: BoundModel, weights_of: LayerWeights) -> str:
        """What the chip does in a step is not PyTorch, so it is not spelled out."""
        return inspect.getsource(training_step)

    def not_settled(self, block: EnergyBlock, relaxation: Relaxation, phase: str) -> str | None:
        settling = self.hardware.settling_time
        if settling is None or not math.isfinite(relaxation.residual):
            return None
        return (
            f"{block.name} has not settled in its {phase}: currents are off by {relaxation.residual:.1e} after "
            f"settling_time = {settling:g} s. Raise settling_time, or lower time_constant or loop_gain."
        )


class IdealChip(TorchEP):
    """The solver with the reverse gains that a perfect chip has: resistors may ask for lower ones than the loop gain.

    Args:
        from_devices: whether weights are what the devices of the chip amount to, where it has some: pulses may have
            left them far from the parameters.
    """

    def __init__(self, chip: Chip, from_devices: bool = False):
        self.chip = chip
        self._from_devices = from_devices

    def block_call(self, call: BlockCall, model: BoundModel) -> BlockCall:
        if self._from_devices and any(p in self.chip.devices for p in call.weights):
            self.chip.hold(call.block, call.weights)
            call = replace(call, weights={p: self._held(p, w) for p, w in call.weights.items()})
        if self.chip.hardware.physics == "hopfield":
            return call
        with torch.no_grad(), out_of_sight():
            return replace(call, layer_weights=realise(one_sample(call.bound)).layer_weights)

    def _held(self, path: str, weight: Tensor) -> Tensor:
        return self.chip.weight(path).to(weight) if path in self.chip.devices else weight


def chip_of(runner: Runner) -> ChipSubstrate:
    """What the blocks of a model on a chip run on."""
    assert isinstance(runner.substrate, ChipSubstrate)
    return runner.substrate
