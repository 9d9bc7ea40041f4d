"""Raw files are read as they are, and damaged ones refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler import InputError
from ffebm_compiler.chip.spice.rawfile import read_raw

HEADER = (
    "Title: * t\nDate: x\nPlotname: {name}\nFlags: real\nNo. Variables: 2\nNo. Points: {points}       "
    "\nVariables:\n\t0\ttime\ttime\n\t1\tV(Out_1)\tvoltage\n"
)
VALUES = (0.0, 1.5, 1e-9, -2.25e-300)


def binary(name: str = "Transient Analysis", points: int = 2) -> bytes:
    return HEADER.format(name=name, points=points).encode() + b"Binary:\n" + struct.pack("<4d", *VALUES)


def text() -> bytes:
    return HEADER.format(name="Transient Analysis", points=2).encode() + (
        b"Values:\n 0\t0.0\n\t1.5\n\n 1\t1e-9\n\t-2.25e-300\n\n"
    )


@pytest.mark.parametrize("content", [binary(), text()], ids=["binary", "text"])
def test_values(content: bytes) -> None:
    (plot,) = read_raw(content)
    assert plot.name == "Transient Analysis"
    assert plot.variables == ("time", "v(out_1)")
    assert plot.values.tolist() == [[0.0, 1.5], [1e-9, -2.25e-300]]
    assert plot.column("v(out_1)").tolist() == [1.5, -2.25e-300]


@pytest.mark.parametrize("content", [binary("A") + binary("B"), text() + text()], ids=["binary", "text"])
def test_several_plots(content: bytes) -> None:
    assert [p.values.shape for p in read_raw(content)] == [(2, 2), (2, 2)]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (binary()[:-3], "is cut off"),
        (binary(points=10**12), "is cut off"),
        (text().replace(b"No. Points: 2", b"No. Points: 99999"), "is cut off|are announced"),
        (text().replace(b"1e-9", b"nonsense"), "no number"),
        (binary().replace(b"No. Variables: 2", b"No. Variables: 99999999999"), "claims"),
        (binary().replace(b"No. Variables: 2", b"No. Variables: -2"), "as its 'No. Variables'"),
        (binary().replace(b"Flags: real", b"Flags: complex"), "complex"),
        (binary()[:60], "in the middle of its header"),
        (b"\x7fELF" + bytes(200), "header"),
        (b"not a raw file\n", "where a field should be"),
    ],
)
def test_damage(content: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_raw(content)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, len(binary()) - 1), st.integers(0, 255), st.booleans())
def test_any_damage_is_an_input_error_or_harmless(at: int, byte: int, as_text: bool) -> None:
    content = text() if as_text else binary()
    at = min(at, len(content) - 1)
    try:
        for plot in read_raw(content[:at] + bytes([byte]) + content[at + 1 :]):
            assert plot.values.shape[1] == len(plot.variables)
    except InputError:
        pass
