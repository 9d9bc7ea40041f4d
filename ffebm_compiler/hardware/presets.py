"""Chips by name: each a :class:`Hardware`, with the source of every number in which it differs from an ideal chip.

Noise with a spectrum Q^2/f between 1/age and 1/(2 t_r), t_r the width of a read pulse, has the variance Q^2 ln(age / (2 t_r)),
and two reads a lag apart share the part below 1/lag; exactly, their correlation is

    rho = [Ci(pi lag / t_r) - Ci(2 pi lag / age)] / ln(age / (2 t_r)),   Ci the cosine integral,

which for t_r << lag << age is (-gamma - ln(2 pi lag / age)) / ln(age / (2 t_r)), gamma = 0.5772 (Euler).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from types import MappingProxyType

from ..errors import OptionError, Problem, close_matches
from .specification import Hardware, LogLaw

PULSE = 250e-9
"""s, width of a read pulse (Nandakumar et al. 2019, ICECS)."""

LAG = 2e-6
"""s, from one phase of a sample to the next: 20 time constants of 100 ns. A guess."""

HOUR = 3600.0
EULER = 0.5772156649015329


def flicker_correlation(lag: float, age: float, pulse: float = PULSE) -> float:
    """Correlation of two reads ``lag`` seconds apart under 1/f noise; see the module's docstring."""
    return (-EULER - math.log(2 * math.pi * lag / age)) / math.log(age / (2 * pulse))


# Polynomials of the relative conductance are published in uS; here they are relative to g_max.
_PCM_PROGRAMMING = tuple(c / 25.0 for c in (0.26348, 1.9650, -1.1731))
_RRAM_PROGRAMMING = tuple(0.71 * c / 40.0 for c in (0.348, 16.030, -43.853, 45.393, -16.815))

IDEAL = Hardware(name="ideal")

RRAM = Hardware(
    name="rram",
    g_min=1e-6,
    g_max=40e-6,
    line_resistance=0.5,
    programming_error=_RRAM_PROGRAMMING,
    read_noise=0.01,
    read_noise_exponent=0.5,
    read_noise_correlation=round(flicker_correlation(LAG, age=1.0), 2),
    dac_bits=8,
    adc_bits=8,
    nudge_bits=8,
    learning_bits=8,
    headroom=2.0,
    offset=2e-3,
    gain_mismatch=0.01,
    reverse_gain_error=0.01,
    temperature=300.0,
    nudge=0.1,
    write="pulses",
    pulse_step=1 / 1200,
    pulse_variation=0.3,
    step_variation=0.3,
)

PCM = Hardware(
    name="pcm",
    g_min=0.0,
    g_max=25e-6,
    line_resistance=0.5,
    programming_error=_PCM_PROGRAMMING,
    read_noise=0.0088,
    read_noise_exponent=0.65,
    read_noise_flicker=True,
    read_noise_correlation=round(flicker_correlation(LAG, age=HOUR), 2),
    drift=LogLaw(0.0244, -0.0155, 0.049, 0.1),
    drift_spread=LogLaw(-0.0059, -0.0125, 0.008, 0.045),
    age=HOUR,
    drift_compensation=True,
    dac_bits=8,
    adc_bits=8,
    nudge_bits=8,
    learning_bits=8,
    headroom=2.0,
    offset=2e-3,
    gain_mismatch=0.01,
    reverse_gain_error=0.01,
    temperature=300.0,
    nudge=0.1,
    write="pulses",
    pulse_step=0.03,
    pulse_variation=1.0,
)

HARSH = Hardware(
    name="harsh",
    g_min=4e-6,
    g_max=40e-6,
    tile_rows=128,
    tile_columns=128,
    line_resistance=2.0,
    levels=16,
    programming_error=0.05,
    read_noise=0.03,
    read_noise_exponent=0.5,
    read_noise_correlation=round(flicker_correlation(LAG, age=1.0), 2),
    stuck_low=0.018,
    stuck_high=0.0035,
    dac_bits=5,
    adc_bits=5,
    nudge_bits=5,
    learning_bits=6,
    headroom=1.5,
    offset=10e-3,
    gain_mismatch=0.05,
    reverse_gain_error=0.05,
    settling_time=2e-6,
    temperature=300.0,
    capacitance=1e-13,
    nudge=0.2,
    write="pulses",
    pulse_step=0.002,
    pulse_asymmetry=0.1,
    pulse_variation=1.0,
    step_variation=0.3,
)

PRESETS: Mapping[str, Hardware] = MappingProxyType({h.name: h for h in (IDEAL, RRAM, PCM, HARSH)})
"""The chips by name."""


def preset(name_or_hardware: str | os.PathLike[str] | Hardware) -> Hardware:
    """A chip by the name of a preset, by the path of a .toml or .json file, or as it is.

    Raises:
        OptionError: no such preset or file, or a file that can't be used.
    """
    if isinstance(name_or_hardware, Hardware):
        return name_or_hardware
    if isinstance(name_or_hardware, str) and name_or_hardware in PRESETS:
        return PRESETS[name_or_hardware]
    if isinstance(name_or_hardware, (str, os.PathLike)) and os.fspath(name_or_hardware).endswith((".toml", ".json")):
        from .documents import read_hardware

        return read_hardware(name_or_hardware)
    known = name_or_hardware if isinstance(name_or_hardware, str) else ""
    raise OptionError(
        Problem(
            "option hardware",
            f"is {name_or_hardware!r}: neither a preset, nor a .toml or .json file, nor a Hardware",
            close_matches(known, list(PRESETS)),
        )
    )
