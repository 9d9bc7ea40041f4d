"""The constants of a cost: their laws, their units, and what they refuse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.chip.cost import A100, EYERISS, H100, Accelerator, CostModel, constants
from ffebm_compiler.chip.hardware import Hardware
from ffebm_compiler.errors import OptionError

MODEL = CostModel()


def test_an_adc_of_eight_bits_is_the_published_one() -> None:
    """Kull et al. 2013: 3.1 mW at 1.2 GS/s is 2.58 pJ a conversion."""
    assert MODEL.adc_energy(8) == pytest.approx(3.1e-3 / 1.2e9, rel=0.01)


@pytest.mark.parametrize("bits", range(1, 12))
def test_converters_double_with_each_bit(bits: int) -> None:
    for law in (MODEL.adc_energy, MODEL.dac_energy, MODEL.area_of_adc, MODEL.area_of_dac):
        assert law(bits + 1) == pytest.approx(2 * law(bits))


def test_thermal_noise_takes_over_where_bits_are_many() -> None:
    """Schreier: FOM = SNDR + 10 log10(f_s / 2 P), so P / f_s grows fourfold with each bit of 6.02 dB."""
    assert MODEL.adc_energy(21) / MODEL.adc_energy(20) == pytest.approx(4, rel=2e-3)
    sndr = 6.02 * 20 + 1.76
    power = MODEL.adc_energy(20) * 1e6  # at a million conversions a second
    assert sndr + 10 * math.log10(1e6 / 2 / power) == pytest.approx(185.0)


def test_no_limit_is_costed_as_so_many_bits() -> None:
    assert MODEL.adc_energy(None) == MODEL.adc_energy(8)
    assert CostModel(ideal_bits=6).dac_energy(None) == MODEL.dac_energy(6)


def test_an_amplifier_of_a_picofarad_and_a_hundred_nanoseconds() -> None:
    """gm = 10 * 1 pF / 100 ns = 0.1 mS, a branch takes gm / 15 = 6.67 uA, four of them at 1 V 26.7 uW."""
    assert MODEL.bias_power(Hardware(capacitance=1e-12, time_constant=1e-7)) == pytest.approx(26.67e-6, rel=1e-3)


def test_a_pulse_is_joule_heat() -> None:
    """(2 V)^2 * 20 uS * 100 ns = 8 pJ."""
    assert MODEL.pulse_energy(20e-6) == pytest.approx(8e-12)


def test_accelerators_are_their_datasheets() -> None:
    """At full use: 700 W / 989 TMAC/s = 0.71 pJ, 400 W / 312 TMAC/s = 1.28 pJ; Eyeriss 0.278 W / 23.3 GMAC/s =
    11.9 pJ.
    """
    assert H100.energy(1) == pytest.approx(0.707e-12 / 0.3, rel=2e-3)
    assert A100.energy(1) == pytest.approx(1.282e-12 / 0.3, rel=2e-3)
    assert EYERISS.energy(1) == pytest.approx(11.93e-12, rel=2e-3)
    assert H100.energy(1, training=True) == pytest.approx(2 * 0.707e-12 / 0.3, rel=2e-3)
    assert EYERISS.energy(1, training=True) is None
    assert EYERISS.latency(1, training=True) is None


def test_every_constant_says_where_it_comes_from() -> None:
    for name, constant in constants().items():
        assert constant.about, name
        assert constant.unit, name
        guess_or_year = constant.is_guess or any(part.strip("():,")[:4].isdigit() for part in constant.source.split())
        assert guess_or_year or constant.source.startswith(("a choice", "16 bits", "32 bits", "the line")), name


@pytest.mark.parametrize("name", sorted(constants()))
@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "3", None, True])
def test_a_bad_constant_is_named(name: str, bad: object) -> None:
    with pytest.raises(OptionError, match=name) as caught:
        CostModel(**{name: bad})
    assert len(caught.value.problems) == 1


def test_all_bad_constants_are_named_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        CostModel(copies=1.5, nominal_activity=1.5, supply=-1)  # type: ignore[arg-type]
    assert [p.where.split()[-1] for p in caught.value.problems] == ["copies", "nominal_activity", "supply"]


def test_a_bad_accelerator_is_named() -> None:
    with pytest.raises(OptionError, match="mine, utilisation"):
        Accelerator("mine", 1.0, 1.0, None, 1.5, 1.0, "")
    with pytest.raises(OptionError) as caught:
        Accelerator("mine", -1.0, math.nan, 0.0, 0.5, 1.0, "")
    assert len(caught.value.problems) == 3


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.integers(1, 23), st.floats(1e-16, 1e-12))
def test_more_bits_never_cost_less(bits: int, step: float) -> None:
    model = CostModel(adc_step_energy=step, dac_step_energy=step)
    assert model.adc_energy(bits + 1) > model.adc_energy(bits)
    assert model.dac_energy(bits + 1) > model.dac_energy(bits)
