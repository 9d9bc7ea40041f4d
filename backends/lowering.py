"""One converted model on another backend: the table of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..chip.emulate import Chip, load_chip
from ..chip.hardware import Hardware
from ..chip.hardware.presets import preset
from ..chip.resistive.realisation import resistive_problems
from ..errors import InputError, OptionError, Problem, close_matches
from ..train import attribute
from .analog_emu.emulated import AnalogEmu, AnalogFFEBM
from .torch_ep import FFEBM

LOWERINGS = (AnalogEmu.name,)
"""What :meth:`FFEBM.lower` lowers to."""


@dataclass(frozen=True)
class ChipChoice:
    """Which chip to emulate: a new one of a specification and a seed, or one from a file.

    Attributes:
        hardware: a preset's name, a file, or a specification; None is ideal.
        chip_seed, noise_seed: of what is fixed for a chip, and of what changes from read to read.
        file: of a chip that was saved.
    """

    hardware: str | os.PathLike[str] | Hardware | None
    chip_seed: int
    noise_seed: int
    file: str | os.PathLike[str] | None

    def problems(self) -> Iterator[Problem]:
        yield from _seed_problems("chip_seed", self.chip_seed)
        yield from _seed_problems("noise_seed", self.noise_seed)
        if self.file is not None and not isinstance(self.file, (str, os.PathLike)):
            yield Problem(
                "option chip", f"is a {type(self.file).__name__}, not a file", "Give the path of save_chip(path)."
            )
        if self.file is not None and self.hardware is not None:
            yield Problem(
                "options hardware and chip",
                "are both given",
                "A chip's file says what it is made of: give one of them.",
            )
        elif self.file is None:
            yield from _hardware_problems(self.hardware)
        for name, seed in (("chip_seed", self.chip_seed), ("noise_seed", self.noise_seed)):
            if self.file is not None and seed != 0:
                yield Problem(
                    f"options {name} and chip",
                    "are both given",
                    "A chip's file has the seeds of its chip: give one of them.",
                )

    def backend(self, model: FFEBM) -> AnalogEmu:
        if self.file is not None:
            chip = load_chip(self.file)
            _check_weights(model, chip, self.file)
            return AnalogEmu(chip.hardware, chip.seed, self.noise_seed, model.execution, chip)
        hardware = preset("ideal" if self.hardware is None else self.hardware)
        return AnalogEmu(hardware, self.chip_seed, self.noise_seed, model.execution)


def lowered(model: FFEBM, backend: str, choice: ChipChoice) -> AnalogFFEBM:
    """The model on the backend, with a copy of its weights and with its gains."""
    problems = [*choice.problems()]
    if backend not in LOWERINGS:
        problems.append(Problem("option backend", f"is {backend!r}", close_matches(str(backend), LOWERINGS)))
    if problems:
        raise OptionError(problems)
    # weights copied in inference mode could not be trained afterwards
    with torch.inference_mode(False):
        lowering = choice.backend(model)
        _check_physics(model, lowering.hardware)
        emulated = lowering.lower(replace(model.compiled, network=copy.deepcopy(model.network)))
        emulated.gain_store.take(model.gain_store)
        return emulated


def _check_weights(model: FFEBM, chip: Chip, file: str | os.PathLike[str]) -> None:
    """Refuses the chip of another model: it holds weights that this one lacks, or has in another shape.

    Raises:
        InputError: naming all of them.
    """
    problems = []
    for path, devices in chip.devices.items():
        try:
            found: object = tuple(attribute(model.network, path).shape)
        except AttributeError:
            found = None
        held = tuple(devices.written.shape)
        if found != held:
            has = "has none" if found is None else f"has one of {found}"
            problems.append(
                Problem(
                    f"chip {os.fspath(file)}, weight {path}",
                    f"is of the shape {held}, and the model {has}",
                    "Lower the model that the chip was saved from, or give hardware for a new chip.",
                )
            )
    if problems:
        raise InputError(problems)


def _hardware_problems(hardware: str | os.PathLike[str] | Hardware | None) -> tuple[Problem, ...]:
    try:
        preset("ideal" if hardware is None else hardware)
    except OptionError as failure:
        return failure.problems
    return ()


def _check_physics(model: FFEBM, hardware: Hardware) -> None:
    """Refuses what can't be built of resistors, in the blocks of the model's present mode, before anything runs."""
    if hardware.physics != "resistive":
        return
    problems = [p for block in model.program.energy_blocks for p in resistive_problems(block)]
    if problems:
        raise OptionError(problems)


def _seed_problems(name: str, value: object) -> list[Problem]:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return []
    return [Problem(f"option {name}", f"is {value!r}", "Give a whole number from 0: the same one gives the same chip.")]
