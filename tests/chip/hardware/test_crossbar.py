"""The devices of a weight: ideal ones hold it to rounding; each property reaches the weight as it must."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffebm_compiler.chip.hardware import Hardware, LogLaw, stream
from ffebm_compiler.chip.hardware.crossbar import Crossbar, from_arrays, program
from ffebm_compiler.chip.hardware.devices import drift_exponents, drifted, read_deviation
from ffebm_compiler.errors import InputError

IDEAL = Hardware()
FULL = Hardware(
    g_min=1e-6,
    g_max=26e-6,
    tile_rows=16,
    tile_columns=10,
    line_resistance=1.0,
    levels=32,
    programming_error=(0.01, 0.05),
    read_noise=0.01,
    read_noise_exponent=0.65,
    read_noise_flicker=True,
    drift=LogLaw(0.0244, -0.0155, 0.049, 0.1),
    drift_spread=LogLaw(-0.0059, -0.0125, 0.008, 0.045),
    age=86400.0,
    drift_compensation=True,
    stuck_low=0.02,
    stuck_high=0.01,
    write="pulses",
    pulse_variation=0.2,
    step_variation=0.2,
)


def _matrix(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def _program(matrix: Tensor, h: Hardware, seed: int = 0) -> Crossbar:
    return program(matrix, h, stream(seed, "devices"), stream(seed, "writing"))


# --- programming --------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    size=st.floats(1e-12, 1e12),
    g_max=st.floats(1e-7, 1.0),
)
def test_ideal_devices_hold_a_weight_to_rounding(
    shape: tuple[int, int, int], dtype: torch.dtype, size: float, g_max: float
) -> None:
    h = Hardware(g_max=g_max, tile_rows=7, tile_columns=5)
    matrix = (_matrix(*shape) * size).to(dtype)
    found = _program(matrix, h).weights(h)
    kept = torch.float32 if dtype == torch.bfloat16 else dtype
    assert found.dtype == kept
    torch.testing.assert_close(found, matrix.to(kept), rtol=2 * torch.finfo(kept).eps, atol=0)


def test_largest_weight_of_each_tile_takes_the_whole_range() -> None:
    h = Hardware(g_min=1e-6, g_max=5e-6, tile_rows=8, tile_columns=8)
    matrix = _matrix(2, 20, 12)
    crossbar = _program(matrix, h)
    assert crossbar.tiling.tiles == 2 * 3 * 2
    for tile in crossbar.tiling:
        pair = torch.stack((crossbar.positive[tile], crossbar.negative[tile]))
        assert float(pair.max()) == pytest.approx(5e-6)
        assert float(pair.min()) == pytest.approx(1e-6)
    torch.testing.assert_close(crossbar.weights(h), matrix, rtol=1e-9, atol=1e-12)


def test_zeros_take_a_finite_scale() -> None:
    h = Hardware(tile_rows=4, tile_columns=4)
    matrix = torch.zeros(1, 8, 4)
    assert not _program(matrix, h).weights(h).any()
    matrix[0, 0, 0] = 0.5
    assert _program(matrix, h).scale.flatten().tolist() == pytest.approx([h.g_max / 0.5] * 2)


def test_a_bias_is_one_row() -> None:
    bias = _matrix(1, 1, 300)
    crossbar = _program(bias, IDEAL)
    assert crossbar.tiling.tiles == 2
    torch.testing.assert_close(crossbar.weights(IDEAL), bias, rtol=1e-15, atol=0)
    full = _program(bias, FULL)
    assert full.weights(FULL).shape == full.deviations(FULL).shape == bias.shape


def test_programming_error_in_units_of_weight() -> None:
    h = Hardware(g_max=2e-5, programming_error=0.02, tile_rows=500, tile_columns=500)
    matrix = _matrix(1, 200, 200)
    error = _program(matrix, h).weights(h) - matrix
    largest, n = float(matrix.abs().max()), matrix.numel()
    # One device of the pair is near 0 and can only err upwards: half a normal, of variance 1/2 - 1/(2 pi) about its
    # mean 1/sqrt(2 pi).
    far = matrix.abs() > 0.1 * largest  # the other device is five standard deviations from 0
    half_normal = 0.02 * largest / math.sqrt(2 * math.pi)
    outward = error[far] * matrix[far].sign()
    expected = 0.02 * largest * math.sqrt(1 + 1 / 2 - 1 / (2 * math.pi))
    assert float(outward.mean()) == pytest.approx(-half_normal, abs=5 * expected / math.sqrt(far.sum()))
    assert float(outward.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * float(far.sum())))
    assert n > 2 * far.sum() / 3


def test_a_bidirectional_array_is_one_set_of_devices() -> None:
    matrix = _matrix(1, 6, 4)
    one, two = _program(matrix, FULL), _program(matrix, FULL)
    assert torch.equal(one.weights(FULL), two.weights(FULL))
    assert not torch.equal(one.weights(FULL), _program(matrix, FULL, seed=1).weights(FULL))


# --- at an age ----------------------------------------------------------------------------------------


def test_mean_drift_and_its_compensation() -> None:
    """With one exponent for all devices drift is a factor, and compensation undoes it exactly."""
    h = Hardware(g_min=1e-6, drift=0.06, age=20.0 * 1000, tile_rows=8, tile_columns=8)
    matrix = _matrix(1, 12, 12)
    crossbar = _program(matrix, h)
    torch.testing.assert_close(crossbar.weights(h), matrix * 1000**-0.06)
    compensated = replace(h, drift_compensation=True)
    torch.testing.assert_close(crossbar.weights(compensated), matrix)
    torch.testing.assert_close(crossbar.gain(compensated), torch.full_like(crossbar.scale, 1000**0.06))


def test_compensation_is_of_the_mean_conductance_of_a_tile() -> None:
    h = replace(FULL, line_resistance=0.0)
    crossbar = _program(_matrix(2, 20, 12), h)
    exponents = drift_exponents(crossbar.devices, h)
    assert exponents is not None
    aged = crossbar.devices.conductance * (h.age / h.drift_start) ** -exponents
    for index, (group, rows, columns) in enumerate(crossbar.tiling):
        before = crossbar.devices.conductance[:, group, rows, columns].mean()
        after = aged[:, group, rows, columns].mean()
        assert float(crossbar.gain(h).flatten()[index]) == pytest.approx(float(before / after))


def test_weights_are_the_difference_of_the_pair() -> None:
    crossbar = _program(_matrix(2, 20, 12), FULL)
    positive, negative = crossbar.pair(FULL)
    assert (positive >= 0).all()
    assert (negative >= 0).all()
    torch.testing.assert_close(positive - negative, crossbar.weights(FULL), rtol=1e-9, atol=1e-12)
    g_positive, g_negative = crossbar.conductances(FULL)
    ratio = (g_positive - g_negative) / crossbar.weights(FULL)
    expected = crossbar.tiling.spread(crossbar.scale / crossbar.gain(FULL)).expand_as(ratio)
    torch.testing.assert_close(ratio, expected, rtol=1e-6, atol=0)


def test_wires_take_from_every_weight() -> None:
    h = Hardware(line_resistance=2.0, g_max=1e-5)
    matrix = _matrix(1, 64, 64)
    kept = _program(matrix, h).weights(h) / matrix
    assert kept.max() < 1
    assert kept[0, 0, 0] > kept[0, -1, -1]
    assert kept.min() > 0.9


# --- reading ------------------------------------------------------------------------------------------


def test_deviations_add_both_devices_of_a_pair() -> None:
    h = Hardware(g_min=1e-5, g_max=1e-4, read_noise=0.03)
    matrix = _matrix(1, 9, 9)
    crossbar = _program(matrix, h)
    scale = float(crossbar.scale)
    expected = 0.03 * (crossbar.positive.square() + crossbar.negative.square()).sqrt() / scale
    torch.testing.assert_close(crossbar.deviations(h), expected)
    assert not crossbar.deviations(replace(h, read_noise=0.0)).any()


def test_deviations_are_those_of_perturbed_devices() -> None:
    """Against readings of devices that are disturbed one by one, behind the wires, after drift and compensation."""
    h = replace(FULL, stuck_low=0.0, stuck_high=0.0, read_noise=0.001, line_resistance=160.0)
    crossbar = _program(_matrix(1, 16, 10), h)
    aged = crossbar.devices.conductance
    weights, deviations = crossbar.weights(h), crossbar.deviations(h)
    noise = read_deviation(crossbar.devices, h) / drifted(crossbar.devices, h)
    generator, total, reads = stream(7), torch.zeros_like(weights), 400
    fixed_gain = replace(h, drift_compensation=False)
    gain = crossbar.tiling.spread(crossbar.gain(h))
    for _ in range(reads):
        g = aged * (1 + noise * torch.randn(aged.shape, generator=generator, dtype=aged.dtype))
        read = replace(crossbar, devices=replace(crossbar.devices, conductance=g)).weights(fixed_gain) * gain
        total += (read - weights).square()
    ratio = (total / reads).sqrt() / deviations
    lost = float(1 - weights.abs().sum() / crossbar.weights(replace(h, line_resistance=0.0)).abs().sum())
    assert lost > 0.08  # so the wires' part is seen; its own error is far smaller
    assert float(ratio.square().mean().sqrt()) == pytest.approx(
        1, abs=5 / math.sqrt(2 * reads * weights.numel()) + 0.01
    )
    assert ratio.min() > 1 - 5 / math.sqrt(2 * reads) - 0.02
    assert ratio.max() < 1 + 5 / math.sqrt(2 * reads) + 0.02


# --- writing ------------------------------------------------------------------------------------------


def test_ideal_writes_have_no_bounds() -> None:
    """A tile whose range is full is written on another scale; the others keep theirs."""
    h = Hardware(tile_rows=4, tile_columns=8)
    matrix, change = _matrix(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.float64)
    change[0, 1, 2] = 10.0
    crossbar = _program(matrix, h)
    after, written = crossbar.write(change, h, stream(1))
    torch.testing.assert_close(after.weights(h), matrix + change, rtol=1e-13, atol=1e-15)
    assert torch.equal(written, change)
    assert after.scale[0, 0, 0] < crossbar.scale[0, 0, 0]
    assert after.scale[0, 1, 0] == crossbar.scale[0, 1, 0]
    assert after.devices.conductance.max() <= h.g_max * (1 + 1e-12)


def test_many_ideal_writes_are_a_sum() -> None:
    matrix, generator = _matrix(2, 9, 7), stream(5)
    crossbar, expected = _program(matrix, IDEAL), matrix.clone()
    for _ in range(50):
        change = 0.1 * torch.randn(matrix.shape, generator=generator, dtype=torch.float64)
        crossbar, _ = crossbar.write(change, IDEAL, generator)
        expected += change
    torch.testing.assert_close(crossbar.weights(IDEAL), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("write", ["quantised", "pulses"])
def test_bounded_writes_stay_in_range(write: str) -> None:
    h = Hardware(write=write, g_min=1e-6, tile_rows=4, levels=None if write == "pulses" else 64)
    matrix = _matrix(1, 8, 8)
    crossbar = _program(matrix, h)
    after, _ = crossbar.write(torch.full_like(matrix, 100.0), h, stream(1))
    largest = crossbar.tiling.spread((h.g_max - h.g_min) / crossbar.scale).expand_as(matrix)
    torch.testing.assert_close(after.weights(h), largest, rtol=1e-6, atol=0)


@pytest.mark.parametrize("write", ["ideal", "quantised", "pulses"])
def test_a_change_of_zero_changes_nothing(write: str) -> None:
    h = replace(FULL, write=write)
    crossbar = _program(_matrix(1, 20, 12), h)
    after, written = crossbar.write(torch.zeros(1, 20, 12, dtype=torch.float64), h, stream(1))
    assert torch.equal(after.devices.conductance, crossbar.devices.conductance)
    assert not written.any()


def test_an_ideal_write_moves_the_actual_weight() -> None:
    """From where its programming error left it."""
    h = replace(FULL, write="ideal", stuck_low=0.0, stuck_high=0.0, line_resistance=0.0, age=0.0)
    crossbar = _program(_matrix(1, 20, 12), h)
    change = 0.1 * _matrix(1, 20, 12)
    after, _ = crossbar.write(change, h, stream(1))
    torch.testing.assert_close(after.weights(h), crossbar.weights(h) + change, rtol=1e-9, atol=1e-10)


def test_a_stuck_device_does_not_set_the_scale() -> None:
    """A weight that its stuck device pins at the end of the range may be asked to grow for ever: the tile keeps its
    scale.
    """
    h = Hardware(stuck_high=0.3)
    matrix = 0.1 * torch.ones(1, 10, 10, dtype=torch.float64)
    matrix[0, 0, 0] = 1.0
    crossbar = _program(matrix, h)
    assert crossbar.devices.stuck is not None
    pinned = (crossbar.devices.stuck != 0).any(0)
    after, _ = crossbar.write(pinned * 0.5, h, stream(1))
    assert torch.equal(after.scale, crossbar.scale)


@pytest.mark.parametrize("faults", [{}, {"stuck_low": 0.1, "stuck_high": 0.05}], ids=["errors", "stuck"])
def test_a_larger_scale_leaves_every_other_weight_as_it_was(faults: dict[str, float]) -> None:
    """Those too whose devices were programmed beyond the range, or make up for a stuck partner."""
    h = Hardware(programming_error=0.1, tile_rows=8, tile_columns=5, **faults)
    matrix = _matrix(1, 16, 10).sign()
    crossbar = _program(matrix, h)
    if faults:  # partners of stuck devices make up for them
        crossbar, _ = crossbar.write(1e-3 * _matrix(1, 16, 10), h, stream(1))
    before, change = crossbar.weights(h), torch.zeros_like(matrix)
    stuck = crossbar.devices.stuck
    whole = torch.ones(16, 10, dtype=torch.bool) if stuck is None else (stuck == 0).all(0)[0]
    row, column = (int(i[0]) for i in whole.nonzero(as_tuple=True))
    largest = (h.g_max - h.g_min) / crossbar.scale[0, 0, 0]
    change[0, row, column] = 1.01 * largest - before[0, row, column]
    after, _ = crossbar.write(change, h, stream(2))
    assert after.scale[0, 0, 0] < crossbar.scale[0, 0, 0]
    kept = torch.ones_like(whole) if stuck is None else ~(stuck != 0).all(0)[0]  # nothing moves where both are stuck
    torch.testing.assert_close(after.weights(h)[0][kept], (before + change)[0][kept], rtol=1e-10, atol=1e-10)


def test_written_is_what_the_controller_counts() -> None:
    h = Hardware(write="pulses", pulse_step=0.01)
    matrix = _matrix(1, 5, 5)
    crossbar = _program(matrix, h)
    _, written = crossbar.write(0.1 * _matrix(1, 5, 5), h, stream(1))
    pulses = written * crossbar.scale / (2 * h.pulse_step * h.g_max)
    torch.testing.assert_close(pulses, pulses.round())
    assert pulses.any()


def test_programmed_zero_moves_by_the_nominal_change() -> None:
    h = Hardware(write="pulses", pulse_step=1e-4)
    matrix = torch.zeros(1, 1, 3, dtype=torch.float64)
    after, written = _program(matrix, h).write(torch.full_like(matrix, 2e-4), h, stream(1))
    torch.testing.assert_close(written, torch.full_like(matrix, 2e-4))
    torch.testing.assert_close(after.weights(h), written)


# --- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [IDEAL, FULL])
def test_there_and_back(h: Hardware) -> None:
    crossbar = _program(_matrix(2, 20, 12, dtype=torch.float32), h)
    again = from_arrays(crossbar.arrays(), (2, 20, 12), h, "layer a")
    assert again.weights(h).dtype == again.deviations(h).dtype == torch.float32
    assert torch.equal(again.weights(h), crossbar.weights(h))
    assert torch.equal(again.deviations(h), crossbar.deviations(h))
    assert torch.equal(crossbar.to("cpu").weights(h), crossbar.weights(h))


def _broken(name: str, value: Tensor | None) -> dict[str, Tensor]:
    arrays = _program(_matrix(1, 4, 3), FULL).arrays()
    if value is None:
        del arrays[name]
        return arrays
    return {**arrays, name: value}


NAN = torch.full((2, 1, 4, 3), float("nan"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conductance", None, "has no array 'conductance'"),
        ("stuck", None, "has no array 'stuck'"),
        ("what", torch.zeros(1), "unknown array 'what'"),
        ("conductance", torch.zeros(2, 1, 4, 4), "the shape"),
        ("conductance", NAN, "not finite"),
        ("conductance", torch.full((2, 1, 4, 3), -1e-6), "negative"),
        ("conductance", torch.zeros(2, 1, 4, 3, dtype=torch.int64), "of type torch.int64"),
        ("stuck", torch.full((2, 1, 4, 3), 2, dtype=torch.int8), "other than -1, 0 and 1"),
        ("stuck", torch.zeros(2, 1, 4, 3), "of type torch.float32"),
        ("scale", torch.zeros(1, 1, 1), "scale of 0"),
        ("scale", torch.ones(1, 2, 1), "the shape"),
        ("step_factor", torch.full((2, 1, 4, 3), -0.1), "negative"),
        ("drift_score", NAN, "not finite"),
        ("target", torch.full((2, 1, 4, 3), float("inf")), "not finite"),
    ],
)
def test_a_damaged_file(name: str, value: Tensor | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_arrays(_broken(name, value), (1, 4, 3), FULL, "layer conv1")
    assert all(p.where.startswith("layer conv1") for p in caught.value.problems)


def test_all_problems_at_once() -> None:
    with pytest.raises(InputError) as caught:
        from_arrays({"scale": torch.zeros(1, 1, 1), "conductance": NAN}, (1, 4, 3), IDEAL, "layer conv1")
    assert len(caught.value.problems) == 3  # scale, conductance, and no target


def test_headroom_lets_weights_grow_by_pulses() -> None:
    """Without it the largest weight of a tile takes the whole range, and stays. Half of the change arrives: the other
    device is at its end.
    """
    matrix = torch.tensor([[[0.5, -1.0], [0.25, 1.0]]], dtype=torch.float64)
    grown = {}
    for headroom in (1.0, 2.0):
        hardware = Hardware(write="pulses", pulse_nonlinearity=0.0, pulse_step=1e-3, weight_headroom=headroom)
        array = program(matrix, hardware, stream(0, "devices"), stream(0, "writing"))
        torch.testing.assert_close(array.weights(hardware), matrix, rtol=1e-12, atol=1e-12)
        assert float(array.positive.max()) == pytest.approx(hardware.g_max / headroom)
        array, _ = array.write(0.5 * matrix, hardware, stream(0, "again"))
        grown[headroom] = float(array.weights(hardware).abs().max())
    assert grown[1.0] == pytest.approx(1.0)
    assert grown[2.0] == pytest.approx(1.25, abs=0.01)
