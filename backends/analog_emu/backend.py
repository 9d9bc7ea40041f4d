"""The backend ``analog-emu``: which chip a model is put on, and whether it can be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...chip.emulate import Chip, load_chip
from ...chip.hardware import Hardware
from ...chip.hardware.presets import preset
from ...chip.resistive.realisation import resistive_problems
from ...errors import InputError, OptionError, Problem
from ...model.bound_model import BoundModel
from ...train import attribute
from .substrate import ChipSubstrate


def analog_emu(
    model: BoundModel,
    /,
    *,
    hardware: str | os.PathLike[str] | Hardware | None = None,
    chip_seed: int = 0,
    noise_seed: int = 0,
    chip: str | os.PathLike[str] | None = None,
) -> ChipSubstrate:
    """An emulated chip for the blocks of a model.

    Args:
        hardware: what the chip is made of: a preset's name (``"ideal"``, the default, ``"rram"``, ``"pcm"``,
            ``"harsh"``), a TOML or JSON file, or a :class:`ffebm_compiler.Hardware`.
        chip_seed: of everything that is fixed for one chip: programming errors, mismatch, faults.
        noise_seed: of what changes from read to read.
        chip: instead, the file of a chip that :meth:`ffebm_compiler.AnalogFFEBM.save_chip` wrote.

    Raises:
        OptionError: a specification that can't be used, or a block that resistors can't make, with every problem.
        InputError: a chip's file that can't be read, or is of another model.
    """
    choice = ChipChoice(hardware, chip_seed, noise_seed, chip)
    OptionError.raise_if(choice.problems())
    made = choice.chip(model)
    _check_physics(model, made.hardware)
    return ChipSubstrate(made)


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

    def chip(self, model: BoundModel) -> Chip:
        if self.file is not None:
            saved = load_chip(self.file)
            _check_weights(model, saved, self.file)
            return saved
        hardware = preset("ideal" if self.hardware is None else self.hardware)
        return Chip(hardware, self.chip_seed, torch.Generator().manual_seed(self.noise_seed))


def _check_weights(model: BoundModel, chip: Chip, file: str | os.PathLike[str]) -> None:
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
    InputError.raise_if(problems)


def _hardware_problems(hardware: str | os.PathLike[str] | Hardware | None) -> tuple[Problem, ...]:
    try:
        preset("ideal" if hardware is None else hardware)
    except OptionError as failure:
        return failure.problems
    return ()


def _check_physics(model: BoundModel, hardware: Hardware) -> None:
    """Refuses what can't be built of resistors, in the blocks of the model's present mode, before anything runs."""
    if hardware.physics != "resistive":
        return
    problems = [p for block in model.program.energy_blocks for p in resistive_problems(block)]
    OptionError.raise_if(problems)


def _seed_problems(name: str, value: object) -> list[Problem]:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return []
    return [Problem(f"option {name}", f"is {value!r}", "Give a whole number from 0: the same one gives the same chip.")]
