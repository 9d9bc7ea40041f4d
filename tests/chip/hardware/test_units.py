"""Numbers with units are the floats that a programmer writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffebm_compiler.chip.hardware.units import KINDS, PREFIXES, SPELLINGS, QuantityError, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("40 uS", "S", 40e-6),
        ("40\u00b5S", "S", 40e-6),
        ("40 \u03bcS", "S", 40e-6),
        ("0.04mS", "S", 40e-6),
        ("100 ns", "s", 1e-7),
        ("1 day", "s", 86400.0),
        ("1.5 h", "s", 5400.0),
        ("1 pF", "F", 1e-12),
        ("300 K", "K", 300.0),
        ("1.5 mV", "V", 1.5e-3),
        ("-2 mV", "V", -2e-3),
        ("2 Ohm", "Ohm", 2.0),
        ("2.2 kohm", "Ohm", 2200.0),
        ("1 M\u03a9", "Ohm", 1e6),
        ("1e3 \u2126", "Ohm", 1000.0),
        (" .5 GOhm ", "Ohm", 5e8),
        ("5 %", "1", 0.05),
        ("8 bit", "bit", 8.0),
        ("3 fF", "F", 3e-15),
    ],
)
def test_texts(text: str, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == value


@given(
    value=st.floats(1e-30, 1e30, allow_nan=False),
    unit=st.sampled_from(sorted(KINDS)),
    prefix=st.sampled_from(sorted(PREFIXES)),
    data=st.data(),
)
def test_a_prefix_shifts_in_decimal(value: float, unit: str, prefix: str, data: st.DataObject) -> None:
    """As if the shifted decimal had been typed; a product of two floats would be off by a rounding."""
    spelling = data.draw(st.sampled_from(SPELLINGS[unit]))
    digits, exponent = f"{value:.16e}".split("e")
    typed = float(f"{digits}e{int(exponent) + PREFIXES[prefix]}")
    assert parse_quantity(f"{value:.16e} {prefix}{spelling}", unit) == typed


@pytest.mark.parametrize(
    ("text", "unit", "words"),
    [
        ("40 mV", "S", "a voltage, not a conductance"),
        ("40 us", "S", "a time, not a conductance"),
        ("40 US", "S", "no unit known"),
        ("40", "S", "without a unit"),
        ("40 uS", "1", "a conductance, not a pure number"),
        ("5 %", "V", "a pure number, not a voltage"),
        ("forty uS", "S", "not a number"),
        ("", "S", "not a number"),
        ("nan V", "V", "not a number"),
        ("inf V", "V", "not a number"),
        ("1 2 V", "V", "not a number"),
        ("1e99999 V", "V", "not a number"),
        ("0x10 V", "V", "not a number"),
        ("1" * 100 + " V", "V", "not a number"),
    ],
)
def test_what_is_none(text: str, unit: str, words: str) -> None:
    with pytest.raises(QuantityError, match=words):
        parse_quantity(text, unit)


def test_a_bare_number_is_taken_where_it_is_asked_for() -> None:
    assert parse_quantity("1e-6", "S", bare=True) == 1e-6


@given(st.text(max_size=80))
def test_any_other_text_is_refused_and_nothing_worse(text: str) -> None:
    try:
        value = parse_quantity(text, "V", bare=True)
    except QuantityError:
        return
    assert isinstance(value, float)
