"""Statistics of devices against their laws; a test on N normal draws allows five standard errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ffebm_compiler.chip.hardware import Hardware, LogLaw, stream
from ffebm_compiler.chip.hardware.devices import (
    STUCK_HIGH,
    STUCK_LOW,
    Devices,
    at_levels,
    drift_exponents,
    drifted,
    manufacture,
    programmed,
    programming_deviation,
    read_deviation,
    read_noise_growth,
    stuck_mask,
)

N = 40_000
STD = 5 / math.sqrt(2 * N)  # of a relative standard deviation
MEAN = 5 / math.sqrt(N)  # of a mean, in standard deviations

# Phase-change memory, g in units of 25 uS: the fits to a million devices that Joshi et al. 2020 report, in the form in
# which their authors' toolkit states them (sigma_w in uS: 0.26348 + 1.9650 x - 1.1731 x^2).
PCM = Hardware(
    g_max=25e-6,
    programming_error=(0.26348 / 25, 1.9650 / 25, -1.1731 / 25),
    read_noise=0.0088,
    read_noise_exponent=0.65,
    read_noise_cap=0.2,
    read_noise_flicker=True,
    drift=LogLaw(0.0244, -0.0155, 0.049, 0.1),
    drift_spread=LogLaw(-0.0059, -0.0125, 0.008, 0.045),
    age=3600.0,
)


def _all(g: float, n: int = N) -> Tensor:
    return torch.full((n,), g, dtype=torch.float64)


# --- levels and writing -------------------------------------------------------------------------------


def test_levels() -> None:
    h = Hardware(g_min=1e-6, g_max=9e-6, levels=5)
    found = at_levels(torch.tensor([0.0, 1.9e-6, 2.1e-6, 5e-6, 8.1e-6, 2e-5], dtype=torch.float64), h)
    torch.testing.assert_close(found, torch.tensor([1, 1, 3, 5, 9, 9], dtype=torch.float64) * 1e-6)
    assert torch.equal(at_levels(found, h), found)


@pytest.mark.parametrize(("microsiemens", "sigma"), [(5.0, 0.6096), (12.5, 0.9527), (25.0, 1.0554)])
def test_programming_error_of_phase_change_memory(microsiemens: float, sigma: float) -> None:
    """About 1 uS over most of the range, as published."""
    target = _all(microsiemens * 1e-6)
    torch.testing.assert_close(programming_deviation(target, PCM)[0].item() * 1e6, sigma, atol=2e-4, rtol=0)
    written = programmed(target, PCM, stream(0))
    assert float(written.std()) * 1e6 == pytest.approx(sigma, rel=STD)
    assert float(written.mean()) * 1e6 == pytest.approx(microsiemens, abs=MEAN * sigma)


def test_a_negative_polynomial_is_no_error() -> None:
    h = Hardware(programming_error=(0.1, -0.3))
    assert programming_deviation(torch.tensor([h.g_max]), h).item() == 0


def test_conductances_are_never_negative() -> None:
    written = programmed(_all(0.0), PCM, stream(0))
    assert written.min() == 0
    assert float((written == 0).double().mean()) == pytest.approx(0.5, abs=MEAN / 2)


# --- faults -------------------------------------------------------------------------------------------


def test_stuck_devices() -> None:
    h = Hardware(g_min=1e-6, stuck_low=0.03, stuck_high=0.01, programming_error=0.05, drift=0.1, age=1e4)
    devices = manufacture(_all(5e-5), h, stream(0), stream(1))
    assert devices.stuck is not None
    for value, part, g in ((STUCK_LOW, 0.03, h.g_min), (STUCK_HIGH, 0.01, h.g_max)):
        mask = devices.stuck == value
        assert float(mask.double().mean()) == pytest.approx(part, abs=MEAN * math.sqrt(part))
        assert (devices.conductance[mask] == g).all()
        assert (drifted(devices, h)[mask] == g).all()


@pytest.mark.parametrize(("low", "high", "value"), [(1.0, 0.0, STUCK_LOW), (0.0, 1.0, STUCK_HIGH)])
def test_all_devices_stuck(low: float, high: float, value: int) -> None:
    mask = stuck_mask(_all(1.0, 1000), Hardware(stuck_low=low, stuck_high=high), stream(0))
    assert mask is not None
    assert (mask == value).all()


# --- drift --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "mean", "spread"), [(1.0, 0.049, 0.008), (0.1, 0.0601, 0.0229), (1e-4, 0.1, 0.045)])
def test_drift_of_phase_change_memory(ratio: float, mean: float, spread: float) -> None:
    """Exponents near 0.05, larger and more spread for small conductances; moments of the normal law cut at 0."""
    target = _all(ratio * PCM.g_max)
    nu = drift_exponents(manufacture(target, PCM, stream(0), stream(1)), PCM)
    assert nu is not None
    assert nu.min() >= 0
    z = mean / spread
    density, below = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), math.erfc(z / math.sqrt(2)) / 2
    expected = mean * (1 - below) + spread * density
    assert float(nu.mean()) == pytest.approx(expected, abs=MEAN * spread + 5e-5)
    assert float(nu.median()) == pytest.approx(mean, abs=1.3 * MEAN * spread + 5e-5)


def test_drift_follows_the_power_law() -> None:
    h = Hardware(drift=0.05, age=20.0 * math.e**2)
    devices = Devices(_all(3e-5, 1), _all(3e-5, 1))
    assert drifted(devices, h).item() == pytest.approx(3e-5 * math.exp(-0.1))


@pytest.mark.parametrize("age", [0.0, 20.0])
def test_no_drift_before_it_is_counted(age: float) -> None:
    devices = Devices(_all(3e-5, 1), _all(3e-5, 1))
    assert torch.equal(drifted(devices, Hardware(drift=0.05, age=age)), devices.conductance)


# --- reading ------------------------------------------------------------------------------------------


def test_read_noise_of_phase_change_memory() -> None:
    """0.0088 sqrt(ln((t + t_r) / 2 t_r)) = 4.2 % of g_max after an hour; a tenth of g_max has 10^0.65 times that."""
    h = Hardware(**{**vars(PCM), "drift": 0.0, "drift_spread": 0.0})
    growth = math.sqrt(math.log((3600 + 250e-9) / 500e-9))
    g = torch.tensor([1.0, 0.1, 1e-3, 0.0], dtype=torch.float64) * h.g_max
    relative = read_deviation(Devices(g, g), h)[:3] / g[:3]
    assert relative.tolist() == pytest.approx([0.0088 * growth, 0.0088 * 10**0.65 * growth, 0.2 * growth])
    assert relative[0].item() == pytest.approx(0.042, abs=5e-4)
    assert read_deviation(Devices(g, g), h)[3] == 0


def test_read_noise_refers_to_the_drifted_conductance() -> None:
    h = Hardware(read_noise=0.02, drift=0.05, age=20e3)
    devices = Devices(_all(3e-5, 1), _all(3e-5, 1))
    assert read_deviation(devices, h).item() == pytest.approx(0.02 * 3e-5 * 1e3**-0.05)


def test_flicker_as_written_is_that_of_the_first_reading() -> None:
    fresh, first, later = (
        read_noise_growth(Hardware(read_noise=0.01, read_noise_flicker=True, age=a)) for a in (0.0, 20.0, 1e6)
    )
    assert fresh == first == pytest.approx(math.sqrt(math.log(20 / 500e-9)), rel=1e-6)
    assert later > first


# --- draws --------------------------------------------------------------------------------------------


def test_same_generators_same_devices() -> None:
    one, two = (manufacture(_all(1e-5, 50), PCM, stream(0, "d"), stream(0, "w")) for _ in range(2))
    assert torch.equal(one.conductance, two.conductance)
    assert one.drift_score is not None
    assert two.drift_score is not None
    assert torch.equal(one.drift_score, two.drift_score)


def test_programming_again_keeps_the_devices() -> None:
    h = Hardware(**{**vars(PCM), "step_variation": 0.3, "stuck_low": 0.1})
    one, two = (manufacture(_all(1e-5, 50), h, stream(0, "d"), stream(seed, "w")) for seed in (0, 1))
    assert not torch.equal(one.conductance, two.conductance)
    for name in ("drift_score", "step_factor", "stuck"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_one_property_does_not_change_the_draws_of_another() -> None:
    with_steps = Hardware(drift_spread=0.01, step_variation=0.3, stuck_high=0.1)
    alone = Hardware(drift_spread=0.01)
    one, two = (manufacture(_all(1e-5, 50), h, stream(0), stream(1)) for h in (with_steps, alone))
    assert one.drift_score is not None
    assert two.drift_score is not None
    assert torch.equal(one.drift_score, two.drift_score)


def test_step_factors() -> None:
    factor = manufacture(_all(1e-5), Hardware(step_variation=0.2), stream(0), stream(1)).step_factor
    assert factor is not None
    assert float(factor.std()) == pytest.approx(0.2, rel=STD)
    assert float(factor.mean()) == pytest.approx(1, abs=0.2 * MEAN)
