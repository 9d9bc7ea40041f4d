"""Converters: their levels by enumeration, saturation, and errors that pass straight through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffebm_compiler.chip.emulate import Chip, Range, driven, quantised
from ffebm_compiler.chip.emulate.converters import Saturation, saturated
from ffebm_compiler.chip.hardware import Hardware

number = st.floats(-10, 10)
ranges = st.builds(Range, st.floats(0.01, 5), st.booleans())


def levels(bits: int, span: Range) -> list[float]:
    """Spelled out: evenly spaced, the ends of the range among them, and zero but for one bit of either sign."""
    if not span.signed:
        return [span.high * k / (2**bits - 1) for k in range(2**bits)]
    most = 2 ** (bits - 1) - 1
    return [-span.high, span.high] if most == 0 else [span.high * k / most for k in range(-most, most + 1)]


@settings(deadline=None, max_examples=80, derandomize=True)
@given(ranges, st.integers(1, 8), st.lists(number, min_size=1, max_size=20))
def test_a_value_goes_to_the_nearest_level(span: Range, bits: int, values: list[float]) -> None:
    known = torch.tensor(levels(bits, span), dtype=torch.float64)
    x = torch.tensor(values, dtype=torch.float64)
    found = quantised(x, bits, span)
    inside = x.clamp(float(known[0]), float(known[-1]))
    distance = (found[:, None] - known).abs().amin(1)
    assert float(distance.max()) < 1e-12 * span.high + 1e-15
    nearest = (inside[:, None] - known).abs().amin(1)
    assert bool(((found - inside).abs() <= nearest + 1e-12).all())


@pytest.mark.parametrize("bits", [1, 2, 5, 8, 12])
@pytest.mark.parametrize("signed", [True, False])
def test_number_of_levels(bits: int, signed: bool) -> None:
    sweep = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
    count = len(quantised(sweep, bits, Range(1.5, signed)).unique())
    assert count == (2**bits - 1 if signed and bits > 1 else 2**bits)


def test_zero_is_a_level_and_none_is_no_converter() -> None:
    x = torch.tensor([0.0, -0.3, 7.0], dtype=torch.float64)
    for signed in (True, False):
        assert float(quantised(x, 4, Range(1.0, signed))[0]) == 0
    assert quantised(x, None, Range(1.0, True)) is x
    assert driven(x, None, Range(1.0, True)) is x


def test_saturation_counts_what_lies_outside() -> None:
    x = torch.tensor([-1.2, -1.0, -0.1, 0.0, 0.5, 1.0, 1.0 + 1e-9, 1.2])
    assert saturated(x, 4, Range(1.0, True)) == 2
    assert saturated(x, 4, Range(1.0, False)) == 4
    assert saturated(x, None, Range(1.0, True)) == 0
    total = Saturation()
    assert total.part == 0
    total.count(x, 4, Range(1.0, True))
    total.count(x, 4, Range(1.0, False))
    assert (total.values, total.outside, total.part) == (16, 6, 6 / 16)


def test_errors_pass_straight_through() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_()
    error = torch.arange(9.0, dtype=torch.float64)
    (back,) = torch.autograd.grad(driven(x, 3, Range(1.0, True)), x, error)
    assert torch.equal(back, error)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(number, min_size=1, max_size=50), st.floats(0.05, 1.0))
def test_a_range_covers_its_quantile_of_the_magnitudes(values: list[float], quantile: float) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    span = Range.covering(x, quantile)
    covered = int((x.abs() <= span.high).sum())
    assert covered >= quantile * len(values) - 1e-9
    assert span.high in x.abs().tolist() or span.high == 1e-12
    assert span.signed == any(v < 0 for v in x.tolist())


def test_ranges_of_nothing_and_joined() -> None:
    assert Range.covering(torch.zeros(3)).high > 0
    assert Range.covering(torch.zeros(0)) == Range(1e-12, False)
    assert Range(1.0, False).joined(Range(0.5, True)) == Range(1.0, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept(dtype: torch.dtype) -> None:
    x: Tensor = torch.randn(5, dtype=dtype)
    assert quantised(x, 6, Range(1.0, True)).dtype == dtype


def test_a_converter_that_saturates_is_spoken_of_once(caplog: pytest.LogCaptureFixture) -> None:
    chip = Chip(Hardware(dac_bits=8), 0, torch.Generator())
    few, many = torch.tensor([0.0, 0.1, 0.2]), torch.full((10,), 5.0)
    with caplog.at_level("WARNING"):
        for value in (few, many, many):
            chip.count("DAC x", value, 8, Range(1.0, True))
    assert len(caplog.records) == 1
    assert "DAC x" in caplog.text
    assert "calibrate" in caplog.text
