"""The analog emulator: digital parts as ordinary PyTorch, energy-based blocks settling on an emulated chip.

An :class:`AnalogFFEBM` is called as the model is. Inference converts what enters a block (DAC), lets the block settle with
the weights that the chip's devices amount to, and converts what leaves it (ADC); ``loss.backward()`` runs two nudged phases there and
returns the gradient that the converters read. Weights that an optimizer has changed are written to the devices before the next use.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..compiled import Compiled
from ..emulate import Chip, OnChip, Phases, Range, driven, quantised
from ..estimate import FreePhase
from ..hardware import Hardware
from ..ir import EnergyBlock
from ..solve import BoundBlock, relax
from ..solve.loop_gain import one_sample
from ..train import BlockCall
from .execution import Execution
from .torch_ep import FFEBM

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnalogEmu:
    """The backend that emulates analog hardware.

    Attributes:
        hardware: what the chip is made of.
        chip_seed: of what is fixed for a chip.
        noise_seed: of what changes from read to read.
        execution: tolerance and loop gain; its estimator is not used, for the chip has its own.
    """

    hardware: Hardware = field(default_factory=Hardware)
    chip_seed: int = 0
    noise_seed: int = 0
    execution: Execution = field(default_factory=Execution)
    name = "analog-emu"

    def lower(self, compiled: Compiled) -> AnalogFFEBM:
        chip = Chip(self.hardware, self.chip_seed, torch.Generator().manual_seed(self.noise_seed))
        return AnalogFFEBM(compiled, self.execution, chip)


class AnalogFFEBM(FFEBM):
    """A converted model on an emulated chip; made by :meth:`FFEBM.lower`."""

    def __init__(self, compiled: Compiled, execution: Execution, chip: Chip):
        super().__init__(compiled, execution)
        self.__dict__["_chip"] = chip
        self.__dict__["_ideal"] = False

    @property
    def chip(self) -> Chip:
        """The devices, mismatches and ranges."""
        return self.__dict__["_chip"]  # type: ignore[no-any-return]

    @property
    def hardware(self) -> Hardware:
        return self.chip.hardware

    # --- a block on the chip --------------------------------------------------------------------------

    def block_call(
        self, block: EnergyBlock, values: Mapping[str, Any], record: Callable[[FreePhase], None] = lambda p: None
    ) -> BlockCall:
        """One use of a block on the chip: its inputs through the DAC, its outputs through the ADC."""
        call = super().block_call(block, values, record)
        if self.__dict__["_ideal"]:
            return call
        self._ensure_ranges(call)
        self.chip.hold(block, call.weights)
        call = replace(call, inputs=self._driven(block, call.inputs))
        run = self._phases(call)
        sample = self.chip.sample()
        return replace(
            call,
            estimator=OnChip(run, sample),
            settle=lambda bound, tolerance: run.free(bound, tolerance, sample.phase()),
            read=self._converted,
        )

    def _driven(self, block: EnergyBlock, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What enters a block, through the DAC."""
        bits, found = self.hardware.dac_bits, dict[str, Any](inputs)
        for name in block.inputs:
            value = inputs[name]
            if isinstance(value, Tensor) and value.is_floating_point():
                span = self.chip.ranges[name]
                self.chip.count(f"DAC {name}", value, bits, span)
                found[name] = driven(value, bits, span)
        return found

    def _converted(self, name: str, state: Tensor) -> Tensor:
        """What leaves a block, through the ADC."""
        bits, span = self.hardware.adc_bits, self.chip.ranges[name]
        self.chip.count(f"ADC {name}", state, bits, span)
        return quantised(state, bits, span)

    def _phases(self, call: BlockCall) -> Phases:
        with torch.no_grad():
            sample = one_sample(call.bound)
            states = sample.feedforward()
        return Phases(self.chip, self.chip.parts(call.block, states), _batch(call.bound, sample, states))

    # --- calibration ----------------------------------------------------------------------------------

    def calibrate(self, *args: Any, **kwargs: Any) -> AnalogFFEBM:
        """Sets the range of every converter and neuron to what the ideal model takes on this input, in evaluation mode.

        Without it the first batch that each block sees does the same. Returns the model itself.
        """
        training = self.training
        self.eval()
        try:
            with self.as_ideal():
                _, found = self.equilibrium(*args, **kwargs)
        finally:
            self.train(training)
            self.forget_run()
        self.chip.ranges.clear()
        self.chip.saturation.clear()
        for block in found:
            self._take_ranges(block.inputs, block.states)
        return self

    def _take_ranges(self, *values: Mapping[str, Any]) -> None:
        for name, value in ((n, v) for some in values for n, v in some.items()):
            if isinstance(value, Tensor) and value.is_floating_point():
                span = Range.of(value, self.hardware.calibration_quantile)
                known = self.chip.ranges.get(name)
                self.chip.ranges[name] = span if known is None else known.joined(span)

    def _ensure_ranges(self, call: BlockCall) -> None:
        names = [s.name for s in call.block.states]
        names += [n for n, v in call.inputs.items() if isinstance(v, Tensor) and v.is_floating_point()]
        if all(n in self.chip.ranges for n in names):
            return
        logger.info(
            "%s: its ranges are those of the first batch; calibrate(x) sets them from data of your choice",
            call.block.name,
        )
        known = dict(self.chip.ranges)
        self._take_ranges(call.inputs, relax(call.bound, call.tolerance).states)
        self.chip.ranges.update(known)

    @contextlib.contextmanager
    def as_ideal(self) -> Iterator[AnalogFFEBM]:
        """The torch executor with the same weights, for the length of a ``with``."""
        before = self.__dict__["_ideal"]
        self.__dict__["_ideal"] = True
        try:
            yield self
        finally:
            self.__dict__["_ideal"] = before

    def extra_repr(self) -> str:
        return f"hardware: {self.hardware.name}, chip {self.chip.seed}, {super().extra_repr()}"


def _batch(bound: BoundBlock, sample: BoundBlock, states: Mapping[str, Tensor]) -> int | None:
    """The number of samples, where dimension 0 of every input and state counts them."""
    sizes = {v.shape[0] if v.dim() else 0 for v in bound.inputs.values() if isinstance(v, Tensor)}
    if len(sizes) != 1:
        return None
    (size,) = sizes
    cut = sample is not bound or size == 1
    return size if cut and all(s.dim() > 1 and s.shape[0] == 1 for s in states.values()) else None


__all__ = ["AnalogEmu", "AnalogFFEBM"]
