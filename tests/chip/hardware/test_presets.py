"""The chips by name: their sources are complete, their constants those of the publications, their correlation that of
1/f noise.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import sici

from ffebm_compiler.chip.hardware import Hardware, defaults
from ffebm_compiler.chip.hardware.devices import READ_TIME, law, programming_deviation, read_noise_growth
from ffebm_compiler.chip.hardware.documents import write_hardware
from ffebm_compiler.chip.hardware.preset_tables import HOUR, LAG, PRESETS, SOURCES, flicker_correlation
from ffebm_compiler.chip.hardware.presets import preset
from ffebm_compiler.errors import OptionError

CONDUCTANCES = torch.linspace(0.01, 1, 200, dtype=torch.float64)
"""Relative to g_max."""


def test_they_are_there() -> None:
    assert list(PRESETS) == ["ideal", "rram", "pcm", "harsh"]
    assert all(name == hardware.name for name, hardware in PRESETS.items())


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_that_differs_from_the_ideal_has_a_source(name: str) -> None:
    ideal = defaults()
    differing = {field for field in ideal if getattr(PRESETS[name], field) != ideal[field]} - {"name"}
    assert differing <= set(SOURCES[name])
    assert all(len(source) > 3 for source in SOURCES[name].values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_source_names_a_year_or_says_that_it_is_a_guess(name: str) -> None:
    plain = {"computed", "room temperature", "no write-verify", "an update smaller", "chosen on"}
    for field, source in SOURCES[name].items():
        known = any(f" 20{y}" in source for y in range(14, 26)) or "guess" in source or "aihwkit" in source
        assert known or any(source.startswith(p) for p in plain), field


@pytest.mark.parametrize("name", ["rram", "pcm", "harsh"])
def test_a_device_is_written_to_a_few_percent_of_the_range(name: str) -> None:
    hardware = PRESETS[name]
    deviation = programming_deviation(CONDUCTANCES * hardware.g_max, hardware) / hardware.g_max
    assert deviation.min() > 0
    assert 0.02 < deviation.max() < 0.06


def test_pcm_is_written_as_published() -> None:
    """Joshi et al. 2020: 0.26348 uS when off, 1.0554 uS at 25 uS, at most 1.0863 uS (at g/g_max = 0.8375)."""
    g = torch.tensor([0.0, 25e-6, 0.8375 * 25e-6], dtype=torch.float64)
    published = torch.tensor(
        [0.26348, 0.26348 + 1.9650 - 1.1731, 0.26348 + 1.9650**2 / (4 * 1.1731)], dtype=torch.float64
    )
    torch.testing.assert_close(programming_deviation(g, PRESETS["pcm"]), published * 1e-6, rtol=1e-6, atol=0)


def test_pcm_drifts_as_published() -> None:
    """nu is held between 0.049 and 0.1, its spread between 0.008 and 0.045, at high and low conductances."""
    g = torch.tensor([1.0, 1e-4], dtype=torch.float64)
    pcm = PRESETS["pcm"]
    torch.testing.assert_close(law(pcm.drift, g), torch.tensor([0.049, 0.1], dtype=torch.float64))
    torch.testing.assert_close(law(pcm.drift_spread, g), torch.tensor([0.008, 0.045], dtype=torch.float64))
    middle = torch.tensor([0.1], dtype=torch.float64)
    assert law(pcm.drift, middle).item() == pytest.approx(0.0244 + 0.0155 * math.log(10))


def test_pcm_is_read_as_published() -> None:
    """0.0088 sqrt(ln(1 h / 500 ns)) = 4.2 % at g_max."""
    pcm = PRESETS["pcm"]
    assert pcm.read_noise * read_noise_growth(pcm) == pytest.approx(0.0088 * math.sqrt(math.log(3600 / 5e-7)), rel=1e-6)


@pytest.mark.parametrize(("name", "age"), [("rram", 1.0), ("pcm", HOUR), ("harsh", 1.0)])
def test_the_correlation_is_that_of_a_flicker_spectrum(name: str, age: float) -> None:
    """int cos(2 pi f lag)/f df over the band, relative to int 1/f df, by the cosine integral."""
    high, low = (sici(2 * math.pi * LAG * f)[1] for f in (1 / (2 * READ_TIME), 1 / age))
    exact = (high - low) / math.log(age / (2 * READ_TIME))
    assert flicker_correlation(LAG, age) == pytest.approx(exact, abs=2e-3)
    assert PRESETS[name].read_noise_correlation == pytest.approx(exact, abs=6e-3)


def test_the_correlation_of_simulated_flicker_noise() -> None:
    """Sinusoids of random phase, evenly over the logarithm of frequency, have a 1/f spectrum."""
    generator = np.random.default_rng(0)
    lag, age, draws, tones = 1e-4, 1.0, 2000, 400
    edges = np.linspace(math.log(1 / age), math.log(1 / (2 * READ_TIME)), tones + 1)
    frequency = np.exp(generator.uniform(edges[:-1], edges[1:], (draws, tones)))  # one in each stratum
    phase = generator.uniform(0, 2 * math.pi, (draws, tones))
    first, second = (np.cos(2 * math.pi * frequency * t + phase).sum(1) for t in (0.0, lag))
    measured = np.corrcoef(first, second)[0, 1]
    expected = flicker_correlation(lag, age)
    assert measured == pytest.approx(expected, abs=4 * (1 - expected**2) / math.sqrt(draws))


class TestPreset:
    def test_by_name(self) -> None:
        assert preset("rram") is PRESETS["rram"]

    def test_a_specification_is_itself(self) -> None:
        mine = Hardware(adc_bits=4)
        assert preset(mine) is mine

    def test_by_path(self, tmp_path: Path) -> None:
        file = write_hardware(Hardware(name="mine", adc_bits=4), tmp_path / "chip.json")
        assert preset(file) == preset(str(file)) == Hardware(name="mine", adc_bits=4)

    @pytest.mark.parametrize(
        ("given", "words"), [("rrma", 'Did you mean "rram"?'), ("", "Known names"), (3, "Known names"), (None, "ideal")]
    )
    def test_anything_else_is_one_error(self, given: object, words: str) -> None:
        with pytest.raises(OptionError) as caught:
            preset(given)  # type: ignore[arg-type]
        (problem,) = caught.value.problems
        assert problem.where == "option hardware"
        assert words in problem.remedy

    def test_a_path_that_is_not_there(self) -> None:
        with pytest.raises(OptionError, match="does not exist"):
            preset("nowhere.toml")
