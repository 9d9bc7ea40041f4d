"""The doors that a converted model has on a chip, besides those that every one has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from .backends.analog_emu.chip_runs import calibrate, cost_of
from .backends.analog_emu.circuits import circuits_of, settling_times_of
from .backends.analog_emu.report import ChipReport, chip_report
from .backends.analog_emu.substrate import ChipSubstrate, chip_of
from .chip.cost import Cost, CostModel
from .chip.emulate import BIAS, Chip, save_chip
from .chip.emulate.settling import DURATION
from .chip.hardware import Circuit, Hardware
from .chip.hardware.mapping import Tiling
from .model.converted_module import ConvertedModule
from .model.runner import Runner
from .train import attribute

Self = TypeVar("Self", bound="ChipDoors")


class ChipDoors(ConvertedModule):
    """What a model on a chip can be asked."""

    def __init__(self, runner: Runner):
        super().__init__(runner)
        self.__dict__["_on"] = chip_of(runner)

    @property
    def chip(self) -> Chip:
        """The devices, mismatches and ranges."""
        return self._on_chip.chip

    @property
    def _on_chip(self) -> ChipSubstrate:
        return self.__dict__["_on"]  # type: ignore[no-any-return]

    @property
    def hardware(self) -> Hardware:
        """What the chip is made of."""
        return self.chip.hardware

    def calibrate(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Sets the range of every converter and neuron to what the ideal model takes on this input, in evaluation mode.

        Of a chip that has been used, to what the weights on it give: call it again while values grow in training.
        Without it the first batch that each block sees sets the ranges. Returns the model itself.
        """
        calibrate(self._runner, self._on_chip, args, kwargs)
        return self

    def settling_times(
        self, *args: Any, tolerance: float = 0.01, duration: float = DURATION, **kwargs: Any
    ) -> dict[str, Tensor]:
        """How long each block takes to settle on each sample, in seconds, without noise; inf beyond ``duration``.

        Args:
            args, kwargs: the model's input.
            tolerance: a state has settled once it stays this close to its equilibrium, relative to the largest value
                of its bank.
            duration: how long to look, in time constants.

        Raises:
            OptionError: a tolerance or duration that is not positive.
        """
        return settling_times_of(self._runner, self.chip, args, kwargs, tolerance, duration)

    def circuits(self, *args: Any, nudge: Mapping[str, Tensor] | None = None, **kwargs: Any) -> tuple[Circuit, ...]:
        """Each block as an explicit circuit on the first sample of an input, its devices as they are on this chip.

        Args:
            nudge: current drawn from the neurons of a state, ``beta delta / w``, by the program's name of the state.

        Raises:
            OptionError: couplings that are too large to unroll, or a nudge of no state.
        """
        return circuits_of(self._runner, self.chip, args, kwargs, nudge or {})

    def cost(self, *args: Any, model: CostModel | None = None, batch: int = 1, **kwargs: Any) -> Cost:
        """Energy, time and area of one sample of this input, at inference and in a training step.

        Args:
            args, kwargs: the model's input.
            model: the constants; docs/costs.md says where the default ones are from.
            batch: samples that share one update of the weights.

        Raises:
            OptionError: a batch without samples.
        """
        return cost_of(self._runner, self._on_chip, args, kwargs, model, batch)

    @property
    def tiles(self) -> dict[str, Tiling]:
        """How each weight that the chip holds is cut into tiles, by its path; empty before the first use."""
        return {path: d.crossbar.tiling for path, d in self.chip.devices.items() if d.layout != BIAS}

    def chip_report(self) -> ChipReport:
        """The chip in numbers: tiles, utilisation, errors of the weights, saturation, and how the last call settled."""
        weights = {path: attribute(self.network, path).detach() for path in self.tiles}
        return chip_report(self.chip, weights, self.tiles, self._runner.relaxation)

    def save_chip(self, path: str | os.PathLike[str]) -> Path:
        """Writes the chip to a file that :meth:`ffebm_compiler.FFEBM.lower` takes up again with ``chip=``."""
        return save_chip(self.chip, path)

    def extra_repr(self) -> str:
        return f"hardware: {self.hardware.name}, chip {self.chip.seed}, {super().extra_repr()}"
