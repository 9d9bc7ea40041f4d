"""The analog emulator: digital parts as ordinary PyTorch, energy-based blocks settling on an emulated chip.

An :class:`AnalogFFEBM` is called as the model is. Inference converts what enters a block (DAC), lets the block settle with
the weights that the chip's devices amount to, and converts what leaves it (ADC); ``loss.backward()`` runs two nudged phases there and
returns the gradient that the converters read. Weights that an optimizer has changed are written to the devices before the next use.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...chip.cost import Cost, CostModel, count, estimate
from ...chip.emulate import BIAS, Chip, Drawing, OnChip, driven, quantised, save_chip, settling_times
from ...chip.emulate.settling import DURATION
from ...chip.hardware import Circuit, Hardware
from ...chip.hardware.mapping import Tiling
from ...chip.resistive import realise
from ...chip.spice.folder import write_netlists
from ...chip.spice.testbench import Bench
from ...compiled import Compiled
from ...errors import ConvergenceWarning, InputError, OptionError, Problem, close_matches
from ...estimate import FreePhase
from ...ir import EnergyBlock
from ...model.execution import Execution
from ...model.verification import evaluating
from ...solve import Relaxation
from ...solve.norm_sample import one_sample
from ...train import BlockCall, attribute, out_of_sight, run_digital
from ...train.processes import require_synchronised
from ..torch_ep import FFEBM
from . import training as chip_training
from .at_rest import drawing, look_at, unobserved
from .calibration import ensure_ranges, first_sample, require_finite, take_ranges
from .report import ChipReport, chip_report
from .use import Uses


@dataclass(frozen=True)
class AnalogEmu:
    """The backend that emulates analog hardware.

    Attributes:
        hardware: what the chip is made of.
        chip_seed: of what is fixed for a chip.
        noise_seed: of what changes from read to read.
        execution: tolerance and loop gain; its estimator is not used, for the chip has its own.
        chip: one that exists already, in place of a new one.
    """

    hardware: Hardware = field(default_factory=Hardware)
    chip_seed: int = 0
    noise_seed: int = 0
    execution: Execution = field(default_factory=Execution)
    chip: Chip | None = None
    name = "analog-emu"

    def lower(self, compiled: Compiled) -> AnalogFFEBM:
        chip = self.chip or Chip(self.hardware, self.chip_seed, torch.Generator().manual_seed(self.noise_seed))
        return AnalogFFEBM(compiled, self.execution, chip)


class AnalogFFEBM(FFEBM):
    """A converted model on an emulated chip; made by :meth:`FFEBM.lower`."""

    finds_exactly = False

    def __init__(self, compiled: Compiled, execution: Execution, chip: Chip):
        super().__init__(compiled, execution)
        self.__dict__["_chip"] = chip
        self.__dict__["_ideal"] = False
        self.__dict__["_calibrating"] = False
        self.__dict__["_calibrated"] = None
        self.__dict__["_uses"] = Uses()

    @property
    def chip(self) -> Chip:
        """The devices, mismatches and ranges."""
        return self.__dict__["_chip"]  # type: ignore[no-any-return]

    @property
    def hardware(self) -> Hardware:
        return self.chip.hardware

    # --- a block on the chip --------------------------------------------------------------------------

    def block_call(
        self,
        block: EnergyBlock,
        values: Mapping[str, Any],
        record: Callable[[FreePhase], None] = lambda p: None,
        trains: bool | None = None,
    ) -> BlockCall:
        """One use of a block on the chip: its inputs through the DAC, its outputs through the ADC."""
        call = super().block_call(block, values, record, trains)
        if self.__dict__["_calibrating"]:
            return self._as_designed(self._as_held(call))
        if self.__dict__["_ideal"]:
            return self._as_designed(call)
        ensure_ranges(self.chip, call)
        self.chip.hold(block, call.weights)
        call = replace(call, inputs=self._driven(block, call.inputs))
        uses: Uses = self.__dict__["_uses"]
        use, sample = uses.use(self.chip, call, self.training), self.chip.sample()
        return replace(
            call,
            layer_weights=use.layer_weights,
            estimator=OnChip(use.phases, sample),
            settle=lambda bound, tolerance: use.phases.free(bound, tolerance, sample.phase()),
            read=self._converted,
        )

    def _as_held(self, call: BlockCall) -> BlockCall:
        """The block with the weights that its devices amount to, where it has some: pulses may have left them far from the parameters."""
        devices = self.chip.devices
        if not any(p in devices for p in call.weights):
            return call
        self.chip.hold(call.block, call.weights)
        held = {p: self.chip.weight(p).to(w) if p in devices else w for p, w in call.weights.items()}
        return replace(call, weights=held)

    def _as_designed(self, call: BlockCall) -> BlockCall:
        """The block with the reverse gains that a perfect chip has: resistors may ask for lower ones than the loop gain."""
        if self.hardware.physics == "hopfield":
            return call
        with torch.no_grad(), out_of_sight():
            return replace(call, layer_weights=realise(one_sample(call.bound)).layer_weights)

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

    def _warn(self, relaxation: Relaxation, block: EnergyBlock, phase: str) -> None:
        settling = self.hardware.settling_time
        diverged = not math.isfinite(relaxation.residual)
        if relaxation.converged or diverged or settling is None or self.__dict__["_ideal"]:
            super()._warn(relaxation, block, phase)
            return
        warnings.warn(
            f"{block.name} has not settled in its {phase}: currents are off by {relaxation.residual:.1e} after settling_time = {settling:g} s. "
            "Raise settling_time, or lower time_constant or loop_gain.",
            ConvergenceWarning,
            stacklevel=2,
        )

    # --- calibration ----------------------------------------------------------------------------------

    def calibrate(self, *args: Any, **kwargs: Any) -> AnalogFFEBM:
        """Sets the range of every converter and neuron to what the ideal model takes on this input, in evaluation mode.

        Of a chip that has been used, to what the weights on it give: call it again while values grow in training.
        Without it the first batch that each block sees sets the ranges. Returns the model itself.
        """
        self.__dict__["_calibrating"] = True
        try:
            with evaluating(self), self.as_ideal():
                _, found = self.equilibrium(*args, **kwargs)
        finally:
            self.__dict__["_calibrating"] = False
        require_finite(*(values for block in found for values in (block.inputs, block.states)))
        self.__dict__["_calibrated"] = first_sample((args, kwargs))
        self.chip.ranges.clear()
        self.chip.saturation.clear()
        for block in found:
            take_ranges(self.chip, block.inputs, block.states)
        return self

    # --- a training step ------------------------------------------------------------------------------

    @property
    def training_code(self) -> str:
        """The source of ``training_step(model, x, y, loss_fn)``: what the chip does in it is not PyTorch, so it is not spelled out."""
        return inspect.getsource(chip_training)

    def training_step(self, x: Any, y: Any, loss_fn: Callable[[Any, Any], Tensor]) -> Tensor:
        """One step on the chip: returns the loss, and adds the gradient that the chip delivers to ``.grad``.

        Args:
            x: the model's input; a tuple for several, a dict by name.
            y: the target, handed to ``loss_fn``.
            loss_fn: ``(output, y) -> scalar tensor``.

        Raises:
            SynchronisationError: as :meth:`FFEBM.training_step`.
        """
        require_synchronised()
        loss: Tensor = chip_training.training_step(self, x, y, loss_fn)
        return loss

    def write_training_loop(self, path: str | os.PathLike[str], model: str | None = None) -> Path:
        """Not on a chip: the script that :class:`FFEBM` writes trains with the torch executor.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            Problem(
                "write_training_loop",
                "writes a script that trains without a chip",
                "Call it on the converted model, or call training_step on this one in a loop of your own.",
            )
        )

    # --- what one asks it -----------------------------------------------------------------------------

    def settling_times(
        self, *args: Any, tolerance: float = 0.01, duration: float = DURATION, **kwargs: Any
    ) -> dict[str, Tensor]:
        """How long each block takes to settle on each sample of an input, in seconds, without noise; inf beyond ``duration``.

        Args:
            args, kwargs: the model's input.
            tolerance: a state has settled once it stays this close to its equilibrium, relative to the largest value of its bank.
            duration: how long to look, in time constants.

        Raises:
            OptionError: a tolerance or duration that is not positive.
        """

        asked = (("tolerance", tolerance), ("duration", duration))
        wrong = [(n, v) for n, v in asked if not 0 < v < float("inf")]
        if wrong:
            raise OptionError(Problem(f"option {n}", f"is {v}", "Give a positive number.") for n, v in wrong)

        def look(call: BlockCall, phase: FreePhase) -> Tensor:
            assert isinstance(call.estimator, OnChip)
            with out_of_sight():
                return settling_times(
                    call.estimator.phases, call.bound, call.estimator.sample.phase(), tolerance, duration
                )

        return dict(zip((b.name for b in self.program.energy_blocks), look_at(self, look, args, kwargs), strict=True))

    def circuits(self, *args: Any, nudge: Mapping[str, Tensor] | None = None, **kwargs: Any) -> tuple[Circuit, ...]:
        """Each block as an explicit circuit on the first sample of an input, its devices as they are on this chip.

        Args:
            nudge: current drawn from the neurons of a state, ``beta delta / w``, by the program's name of the state.

        Raises:
            OptionError: couplings that are too large to unroll, or a nudge of no state.
        """
        states = [s.name for b in self.program.energy_blocks for s in b.states]
        unknown = [n for n in nudge or () if n not in states]
        if unknown:
            raise OptionError(Problem(f"nudge of {n!r}", "is of no state", close_matches(n, states)) for n in unknown)
        return tuple(d.circuit() for d, _ in self._drawings(args, kwargs, nudge or {}))

    def _drawings(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], nudge: Mapping[str, Tensor]
    ) -> list[tuple[Drawing, Mapping[str, Tensor]]]:
        """What the circuits are drawn from, and the states that the chip settles to without noise."""

        def look(call: BlockCall, phase: FreePhase) -> tuple[Drawing, Mapping[str, Tensor]]:
            return drawing(self.chip, self.program.labels, call, phase, nudge), phase.states

        return look_at(self, look, args, kwargs)

    def export_spice(
        self,
        directory: str | os.PathLike[str],
        *args: Any,
        bench: Bench | None = None,
        overwrite: bool = False,
        blocks: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[Path]:
        """Writes one SPICE netlist for each block, on the first sample of an input, with what the emulator expects of it.

        Args:
            directory: a folder that does not exist yet, or is empty.
            args, kwargs: the model's input; the first sample of what :meth:`calibrate` was given by default.
            bench: what the netlists simulate.
            overwrite: whether a folder of earlier netlists may be replaced.
            blocks: names of the blocks to write; all by default.

        Raises:
            OptionError: the folder can't be written, a coupling is too large, or there is no block of such a name.
            InputError: a layer has no circuit.
        """
        if not args and not kwargs:
            args, kwargs = self._example()
        wanted = self._named(blocks)
        found = [(d, states) for d, states in self._drawings(args, kwargs, {}) if d.bound.block.name in wanted]
        circuits = {d.bound.block.name: d.circuit() for d, _ in found}
        expected = {d.bound.block.name: {n: s[0] for n, s in states.items()} for d, states in found}
        return write_netlists(circuits, directory, expected, bench, overwrite)

    def _named(self, blocks: Sequence[str] | None) -> list[str]:
        known = [b.name for b in self.program.energy_blocks]
        if isinstance(blocks, str):
            raise OptionError(Problem("option blocks", f"is {blocks!r}", f"Give a list of names: [{blocks!r}]."))
        unknown = [n for n in blocks or () if n not in known]
        if unknown:
            raise OptionError(Problem("option blocks", f"names {n!r}", close_matches(n, known)) for n in unknown)
        return known if blocks is None else list(blocks)

    def _example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if (example := self.__dict__["_calibrated"]) is None:
            raise InputError(
                Problem("export_spice", "has no input to draw the circuits on", "Give one, or call calibrate(x) first.")
            )
        return example  # type: ignore[no-any-return]

    def cost(self, *args: Any, model: CostModel | None = None, batch: int = 1, **kwargs: Any) -> Cost:
        """Energy, time and area of one sample of this input, at inference and in a training step.

        Args:
            args, kwargs: the model's input.
            model: the constants; docs/costs.md says where the default ones are from.
            batch: samples that share one update of the weights.

        Raises:
            OptionError: a batch without samples.
        """
        if batch < 1:
            raise OptionError(Problem("option batch", f"is {batch}", "Give a whole number from 1."))
        with evaluating(self), unobserved(self.chip), torch.no_grad():
            _, settled = self.equilibrium(*args, **kwargs)
            values = self.bind_inputs(args, kwargs)
            work = count(self.program, self.network, values, settled, run_digital, _samples(values))
        return estimate(work, self.hardware, model, batch=batch)

    @property
    def tiles(self) -> dict[str, Tiling]:
        """How each weight that the chip holds is cut into tiles, by its path; empty before the first use."""
        return {path: d.crossbar.tiling for path, d in self.chip.devices.items() if d.layout != BIAS}

    def chip_report(self) -> ChipReport:
        """The chip in numbers: tiles, utilisation, errors of the weights, saturation, and how the last call settled."""
        weights = {path: attribute(self.network, path).detach() for path in self.tiles}
        return chip_report(self.chip, weights, self.tiles, self.relaxation)

    def save_chip(self, path: str | os.PathLike[str]) -> Path:
        """Writes the chip to a file that :meth:`FFEBM.lower` takes up again with ``chip=``."""
        return save_chip(self.chip, path)

    @contextlib.contextmanager
    def as_ideal(self) -> Iterator[AnalogFFEBM]:
        """The torch executor with the same weights, for the length of a ``with``."""
        before = self.__dict__["_ideal"]
        self.__dict__["_ideal"] = True
        try:
            yield self
        finally:
            self.__dict__["_ideal"] = before

    @property
    def estimator_name(self) -> str:
        return super().estimator_name if self.__dict__["_ideal"] else f"chip {self.chip.seed} of {self.hardware.name}"

    def extra_repr(self) -> str:
        return f"hardware: {self.hardware.name}, chip {self.chip.seed}, {super().extra_repr()}"


def _samples(values: Mapping[str, Any]) -> int:
    sizes = [v.shape[0] for v in values.values() if isinstance(v, Tensor) and v.dim()]
    return sizes[0] if sizes else 1


__all__ = ["AnalogEmu", "AnalogFFEBM"]
