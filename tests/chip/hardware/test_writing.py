"""Updates of devices: the closed form of n pulses against n pulses, levels against their definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffebm_compiler.chip.hardware import Hardware, stream
from ffebm_compiler.chip.hardware.devices import STUCK_HIGH, Devices, at_levels
from ffebm_compiler.chip.hardware.writing import pair_of, pulsed, write_pairs

G = 1e-4
PULSES = Hardware(g_max=G, write="pulses", pulse_step=0.01)


def one_pulse(x: float, up: bool, h: Hardware, factor: float = 1.0, variation: float = 0.0) -> float:
    """The documented step, once."""
    a, c = h.pulse_asymmetry, h.pulse_nonlinearity
    if up:
        return min(x + h.pulse_step * (1 + a) * factor * (1 + variation) * (1 + c * (1 - 2 * x)), max(x, 1.0))
    return max(x - h.pulse_step * (1 - a) * factor * (1 + variation) * (1 - c * (1 - 2 * x)), min(x, 0.0))


def _times(x: float, n: int, h: Hardware, factor: float) -> float:
    for _ in range(abs(n)):
        x = one_pulse(x, n > 0, h, factor)
    return x


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    x=st.floats(0, 1),
    n=st.integers(-300, 300),
    step=st.floats(1e-5, 1.0),
    nonlinearity=st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)),
    asymmetry=st.floats(0, 0.9),
    factor=st.floats(0, 3),
)
def test_closed_form_is_the_loop(
    x: float, n: int, step: float, nonlinearity: float, asymmetry: float, factor: float
) -> None:
    h = Hardware(pulse_step=step, pulse_nonlinearity=nonlinearity, pulse_asymmetry=asymmetry)
    state, count, factors = (torch.tensor([v], dtype=torch.float64) for v in (x, n, factor))
    found = pulsed(state, count, factors, h, stream(0))
    assert float(found) == pytest.approx(_times(x, n, h, factor), abs=1e-9)


def test_float32_is_enough_for_small_steps() -> None:
    h = replace(PULSES, pulse_step=1e-4)
    found = pulsed(torch.tensor([0.25]), torch.tensor([100.0]), None, h, stream(0))
    assert float(found) == pytest.approx(_times(0.25, 100, h, 1.0), abs=1e-6)


def test_a_pulse_at_mid_range_is_a_step() -> None:
    state, count = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([1.0, -1.0])
    moved = pulsed(state, count, None, PULSES, stream(0)) - state
    torch.testing.assert_close(moved, torch.tensor([0.01, -0.01], dtype=torch.float64))


def test_soft_bounds_are_never_passed() -> None:
    state, count = torch.tensor([0.3, 0.3, 1.02, -0.01]), torch.tensor([1e6, -1e6, 5.0, -5.0])
    assert pulsed(state, count, None, PULSES, stream(0)).tolist() == pytest.approx([1.0, 0.0, 1.02, -0.01], abs=1e-6)


def test_variance_of_the_sum_of_pulses() -> None:
    h, n, devices, x = replace(PULSES, pulse_step=0.02, pulse_variation=0.3), 20, 20_000, 0.2
    generator = torch.Generator().manual_seed(1)
    state = torch.full((devices,), x, dtype=torch.float64)
    looped = state.clone()
    for _ in range(n):
        xi = torch.randn(devices, generator=generator, dtype=torch.float64)
        looped = looped + h.pulse_step * (1 + h.pulse_variation * xi) * (2 - 2 * looped)
    found = pulsed(state, torch.full_like(state, n), None, h, stream(3))
    tolerance = 5 / (2 * devices) ** 0.5  # 5 standard errors of a relative standard deviation, of two samples
    assert float(found.std() / looped.std()) == pytest.approx(1, abs=2**0.5 * tolerance)
    assert float(found.mean() - looped.mean()) == pytest.approx(0, abs=5 * (2 / devices) ** 0.5 * float(looped.std()))


# --- pairs --------------------------------------------------------------------------------------------


def _pair(difference: Tensor, h: Hardware) -> Devices:
    pair = at_levels(pair_of(difference, h), h)
    return Devices(pair, pair)


DIFFERENCES = torch.tensor([-0.9, -0.4, 0.0, 0.3, 0.8], dtype=torch.float64) * G


def test_pulses_on_a_pair_depend_on_the_weight_alone() -> None:
    """At c = 1 and a = 0 the pair is one soft-bounded device with the symmetry point 0: ``2 step (1 -+ d)``."""
    for sign in (1.0, -1.0):
        change = torch.full_like(DIFFERENCES, sign * 2 * PULSES.pulse_step * G)
        after, written = write_pairs(_pair(DIFFERENCES, PULSES), change, PULSES, stream(0))
        moved = after.conductance[0] - after.conductance[1] - DIFFERENCES
        torch.testing.assert_close(moved, change * (1 - sign * DIFFERENCES / G))
        torch.testing.assert_close(written, change)


def test_a_change_below_half_a_pulse_waits() -> None:
    before = _pair(DIFFERENCES, PULSES)
    nominal = 2 * PULSES.pulse_step * G
    after, written = write_pairs(before, torch.full_like(DIFFERENCES, 0.49 * nominal), PULSES, stream(0))
    assert torch.equal(after.conductance, before.conductance)
    assert not written.any()
    _, written = write_pairs(before, torch.full_like(DIFFERENCES, 0.51 * nominal), PULSES, stream(0))
    torch.testing.assert_close(written, torch.full_like(DIFFERENCES, nominal))


@pytest.mark.parametrize("g_min", [0.0, 1e-5])
def test_ideal_writes_are_exact(g_min: float) -> None:
    h = Hardware(g_min=g_min, g_max=G + g_min)
    change = torch.tensor([0.2, 1.0, -0.5, 0.0, 0.1], dtype=torch.float64) * G
    after, written = write_pairs(_pair(DIFFERENCES, h), change, h, stream(0))
    torch.testing.assert_close(
        after.conductance[0] - after.conductance[1], DIFFERENCES + change, rtol=1e-12, atol=1e-18
    )
    assert torch.equal(written, change)
    assert (after.conductance.amin(0) - g_min).abs().max() < 1e-18


def test_a_stuck_device_is_left_to_its_partner() -> None:
    h = Hardware(g_max=G, stuck_high=0.1)
    stuck = torch.zeros(2, 5, dtype=torch.int8)
    stuck[0, 1] = STUCK_HIGH
    devices = replace(_pair(DIFFERENCES, h), stuck=stuck)
    now = torch.where(stuck > 0, G, devices.conductance)
    change = -0.3 * (now[0] - now[1])
    after, _ = write_pairs(replace(devices, conductance=now), change, h, stream(0))
    assert after.conductance[0, 1] == G
    torch.testing.assert_close(after.conductance[0] - after.conductance[1], 0.7 * (now[0] - now[1]))


def test_quantised_writes_touch_what_changes_level() -> None:
    h = Hardware(g_max=G, levels=11, write="quantised", programming_error=0.001)
    before = _pair(torch.tensor([0.3, 0.3, -0.1, 0.0], dtype=torch.float64) * G, h)
    change = torch.tensor([0.04, 0.06, 0.2, 0.0], dtype=torch.float64) * G
    after, written = write_pairs(before, change, h, stream(0))
    torch.testing.assert_close(written, torch.tensor([0.0, 0.1, 0.2, 0.0], dtype=torch.float64) * G)
    moved = after.conductance != before.conductance
    assert moved.tolist() == [[False, True, True, False], [False, False, True, False]]
    assert ((after.conductance - after.target).abs() < 0.005 * G).all()  # five standard deviations


def test_what_a_quantised_write_leaves_adds_up() -> None:
    """A controller that keeps the rest gets there: ten changes of a third of a level are three levels."""
    h = Hardware(g_max=G, levels=11, write="quantised")
    devices, rest = _pair(torch.zeros(1, dtype=torch.float64), h), torch.zeros(1, dtype=torch.float64)
    for _ in range(10):
        rest = rest + G / 30
        devices, written = write_pairs(devices, rest, h, stream(0))
        rest = rest - written
    torch.testing.assert_close(devices.conductance[0] - devices.conductance[1], torch.full_like(rest, 0.3 * G))


@pytest.mark.parametrize("write", ["quantised", "pulses"])
def test_stuck_devices_stay(write: str) -> None:
    h = Hardware(g_max=G, write=write, stuck_high=0.5, pulse_step=0.05)
    stuck = torch.tensor([[0, 1], [0, 0]], dtype=torch.int8)
    pair = torch.where(stuck > 0, G, pair_of(torch.zeros(2, dtype=torch.float64), h))
    change = torch.full((2,), -0.5 * G, dtype=torch.float64)
    after, _ = write_pairs(Devices(pair, pair_of(torch.zeros_like(change), h), stuck), change, h, stream(0))
    assert after.conductance[0, 1] == G
    assert (after.conductance[1] > 0).all()
