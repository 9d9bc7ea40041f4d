"""Chips by name: each a :class:`Hardware`, with the source of every number in which it differs from an ideal chip.

Noise with a spectrum Q^2/f between 1/age and 1/(2 t_r), t_r the width of a read pulse, has the variance Q^2 ln(age / (2
t_r)), and two reads a lag apart share the part below 1/lag; exactly, their correlation is

    rho = [Ci(pi lag / t_r) - Ci(2 pi lag / age)] / ln(age / (2 t_r)),   Ci the cosine integral,

which for t_r << lag << age is (-gamma - ln(2 pi lag / age)) / ln(age / (2 t_r)), gamma = 0.5772 (Euler).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .devices import READ_TIME
from .quantity import LogLaw
from .specification import Hardware

LAG = 2e-6
"""s, from one phase of a sample to the next: 20 time constants of 100 ns. A guess."""

HOUR = 3600.0
EULER = 0.5772156649015329


def flicker_correlation(lag: float, age: float, pulse: float = READ_TIME) -> float:
    """Correlation of two reads ``lag`` seconds apart under 1/f noise, for ``pulse << lag << age``; see above."""
    return (-EULER - math.log(2 * math.pi * lag / age)) / math.log(age / (2 * pulse))


# --- sources ----------------------------------------------------------------------------------------------

AMBROGIO = "Ambrogio et al. 2015, IEEE Trans. Electron Devices, Noise-induced resistance broadening, part I"
CHEN = "Chen et al. 2015, IEEE Trans. Computers 64, 180"
GOKMEN = "Gokmen & Vlasov 2016, Frontiers in Neuroscience 10, 333"
JOSHI = "Joshi et al. 2020, Nature Communications 11, 2473"
LE_GALLO = "Le Gallo et al. 2023, Nature Electronics 6, 680"
NANDAKUMAR = "Nandakumar et al. 2019, ICECS, 727"
MIXED = "Nandakumar et al. 2020, Frontiers in Neuroscience 14, 406"
WAN = "Wan et al. 2022, Nature 608, 504"
KIT = "IBM's aihwkit"

MISMATCH = "a guess: what careful layout and a calibration at start-up leave"
SUPPLY = "a guess: a supply of twice full_scale"
BITS = "a guess: as many as the converters of the states"
WIRE = "a guess: a copper wire of 200 nm x 300 nm (3e-8 Ohm m), a device each um"
ROOM = "room temperature"
STRONGER = "chosen on a small convolutional network: strong enough to stand above the read noise, the bias still small"

Sourced = tuple[Any, str]
"""A value and where it is from."""

# Published polynomials of g/g_max are in uS; here they are relative to g_max.
_PCM_PROGRAMMING = tuple(c / 25.0 for c in (0.26348, 1.9650, -1.1731))
_RRAM_PROGRAMMING = tuple(0.71 * c / 40.0 for c in (0.348, 16.030, -43.853, 45.393, -16.815))

_TABLES: Mapping[str, Mapping[str, Sourced]] = {
    "ideal": {},
    "rram": {
        "g_min": (1e-6, f"{WAN}: conductances of 1 to 40 uS"),
        "g_max": (40e-6, f"{WAN}: conductances of 1 to 40 uS"),
        "line_resistance": (0.5, WIRE),
        "programming_error": (
            _RRAM_PROGRAMMING,
            f"{WAN}, a second after write-verify: the polynomial fitted to their figure by {KIT} "
            "(ReRamWan2022NoiseModel); times 0.71, a guess at what programming three times over gains (their Extended "
            "Data Fig. 3e). A day later it is about 1.6 times as large",
        ),
        "read_noise": (0.01, f"{KIT}, ReRamWan2022NoiseModel: about 1 % of short-term read noise"),
        "read_noise_exponent": (0.5, f"a guess: {AMBROGIO} find that it grows with the resistance"),
        "read_noise_correlation": (
            round(flicker_correlation(LAG, age=1.0), 2),
            "computed: 1/f noise seen over 1 s by pulses of 250 ns, phases 2 us apart (flicker_correlation); "
            "both times are guesses",
        ),
        "dac_bits": (8, f"a guess: as {LE_GALLO}, of PCM"),
        "adc_bits": (8, f"a guess: as {LE_GALLO}, of PCM"),
        "nudge_bits": (8, BITS),
        "learning_bits": (8, BITS),
        "headroom": (2.0, SUPPLY),
        "offset": (2e-3, MISMATCH),
        "gain_mismatch": (0.01, MISMATCH),
        "reverse_gain_error": (0.01, MISMATCH),
        "temperature": (300.0, ROOM),
        "nudge": (0.5, STRONGER),
        "write": ("pulses", "an update smaller than the programming error would be lost in write-verify"),
        "pulse_step": (1 / 1200, f"{GOKMEN}: 1200 steps over the range; what a device should reach, not a measurement"),
        "pulse_variation": (0.3, f"{GOKMEN}: 30 % from pulse to pulse; what a device should reach"),
        "step_variation": (0.3, f"{GOKMEN}: 30 % from device to device; what a device should reach"),
    },
    "pcm": {
        "g_max": (25e-6, f"{JOSHI}: 25 uS"),
        "line_resistance": (0.5, WIRE),
        "programming_error": (
            _PCM_PROGRAMMING,
            f"{JOSHI}: 0.26348 + 1.9650 x - 1.1731 x^2 uS, digits from {KIT} (PCMLikeNoiseModel)",
        ),
        "read_noise": (0.0088, f"{NANDAKUMAR}: Q = min(0.0088 (g/g_max)^-0.65, 0.2), by {KIT}"),
        "read_noise_exponent": (0.65, f"{NANDAKUMAR}: Q = min(0.0088 (g/g_max)^-0.65, 0.2), by {KIT}"),
        "read_noise_flicker": (True, f"{NANDAKUMAR}: sigma = Q sqrt(ln((t + t_r) / (2 t_r))), t_r = 250 ns"),
        "read_noise_correlation": (
            round(flicker_correlation(LAG, age=HOUR), 2),
            "computed: the same 1/f noise, seen over the age by pulses of 250 ns, phases 2 us apart "
            "(flicker_correlation); the 2 us are a guess",
        ),
        "drift": (LogLaw(0.0244, -0.0155, 0.049, 0.1), f"{JOSHI}: fitted to 10^6 devices; numbers by {KIT}"),
        "drift_spread": (LogLaw(-0.0059, -0.0125, 0.008, 0.045), f"{JOSHI}: fitted to 10^6 devices; numbers by {KIT}"),
        "age": (HOUR, "a guess: an hour after programming"),
        "drift_compensation": (True, f"{JOSHI}: a factor for each array"),
        "dac_bits": (8, f"{LE_GALLO}: inputs of 8 bits"),
        "adc_bits": (8, f"{LE_GALLO}: outputs of 8 bits"),
        "nudge_bits": (8, BITS),
        "learning_bits": (8, BITS),
        "headroom": (2.0, SUPPLY),
        "offset": (2e-3, MISMATCH),
        "gain_mismatch": (0.01, MISMATCH),
        "reverse_gain_error": (0.01, MISMATCH),
        "temperature": (300.0, ROOM),
        "nudge": (1.0, STRONGER),
        "write": ("pulses", f"{MIXED}: updates by single crystallising pulses"),
        "pulse_step": (
            0.03,
            f"a guess after {MIXED}: about 0.8 uS a pulse. Real devices grow by pulses and shrink by one reset",
        ),
        "pulse_variation": (1.0, f"a guess after {MIXED}: the spread of a pulse's change is about its mean"),
    },
    "harsh": {
        "g_min": (4e-6, "a guess: an on/off ratio of 10"),
        "g_max": (40e-6, f"{WAN}: conductances of 1 to 40 uS"),
        "tile_rows": (128, "a guess: half of the other presets'"),
        "tile_columns": (128, "a guess: half of the other presets'"),
        "line_resistance": (2.0, "a guess: a copper wire of 100 nm x 150 nm, a device each um"),
        "levels": (16, "a guess: 4 bits a device"),
        "programming_error": (0.05, f"a guess: about the largest of {WAN}, for every conductance"),
        "read_noise": (0.03, "a guess: three times the RRAM's"),
        "read_noise_exponent": (0.5, f"a guess: {AMBROGIO} find that it grows with the resistance"),
        "read_noise_correlation": (round(flicker_correlation(LAG, age=1.0), 2), "computed: as the RRAM's"),
        "stuck_low": (
            0.018,
            f"{CHEN}: about a tenth of the devices of a test chip stuck; a guess: a fifth of that is left after "
            "repair, five in six of it low",
        ),
        "stuck_high": (
            0.0035,
            f"{CHEN}: as stuck_low; with all of their faults a convolutional network trained on digits falls to 20 %",
        ),
        "dac_bits": (5, "a guess: small converters"),
        "adc_bits": (5, "a guess: small converters"),
        "nudge_bits": (5, "a guess: small converters"),
        "learning_bits": (6, "a guess: one bit more than the states, for the sign of their difference"),
        "headroom": (1.5, "a guess: a low supply"),
        "offset": (10e-3, "a guess: small transistors, no calibration"),
        "gain_mismatch": (0.05, "a guess: small transistors, no calibration"),
        "reverse_gain_error": (0.05, "a guess: small transistors, no calibration"),
        "settling_time": (2e-6, "a guess: 20 time constants"),
        "temperature": (300.0, ROOM),
        "capacitance": (1e-13, "a guess: a tenth of the other presets'"),
        "nudge": (0.5, STRONGER),
        "write": ("pulses", "no write-verify"),
        "pulse_step": (
            0.002,
            f"a guess: twice the step of {KIT}'s loose fit to Gong et al. 2018, Nature Communications 9, 2102",
        ),
        "pulse_asymmetry": (0.1, "a guess"),
        "pulse_variation": (
            1.0,
            f"a guess: between the 30 % of {GOKMEN} and the 375 % of {KIT}'s fit to Gong et al. 2018",
        ),
        "step_variation": (0.3, f"{GOKMEN}: 30 % from device to device; also {KIT}'s fit to Gong et al. 2018"),
    },
}

PRESETS: Mapping[str, Hardware] = MappingProxyType(
    {
        name: Hardware(name=name, **{field: value for field, (value, _) in table.items()})
        for name, table in _TABLES.items()
    }
)
"""The chips by name."""

SOURCES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {name: {field: source for field, (_, source) in table.items()} for name, table in _TABLES.items()}
)
"""Preset -> field -> where its value is from; "a guess" says so."""
