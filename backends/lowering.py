"""One converted model on another backend: the table of them."""

from __future__ import annotations

import copy
import os
from dataclasses import replace

from ..errors import OptionError, Problem, close_matches
from ..hardware import Hardware
from ..hardware.presets import preset
from .analog_emu import AnalogEmu, AnalogFFEBM
from .torch_ep import FFEBM

LOWERINGS = (AnalogEmu.name,)
"""What :meth:`FFEBM.lower` lowers to."""


def lowered(
    model: FFEBM, backend: str, hardware: str | os.PathLike[str] | Hardware, chip_seed: int, noise_seed: int
) -> AnalogFFEBM:
    """The model on the backend, with a copy of its weights and with its gains."""
    problems = [*_seed_problems("chip_seed", chip_seed), *_seed_problems("noise_seed", noise_seed)]
    if backend not in LOWERINGS:
        problems.append(Problem("option backend", f"is {backend!r}", close_matches(str(backend), LOWERINGS)))
    if problems:
        raise OptionError(problems)
    compiled = replace(model.compiled, network=copy.deepcopy(model.network))
    emulated = AnalogEmu(preset(hardware), chip_seed, noise_seed, model.execution).lower(compiled)
    emulated.share_gains(model)
    return emulated


def _seed_problems(name: str, value: object) -> list[Problem]:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return []
    return [Problem(f"option {name}", f"is {value!r}", "Give a whole number from 0: the same one gives the same chip.")]
