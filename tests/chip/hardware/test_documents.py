"""A specification survives its documents exactly, and a document that can't be used says all that is wrong with it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from ffebm_compiler.chip.hardware import Hardware, LogLaw, Quantity, quantities
from ffebm_compiler.chip.hardware.documents import (
    LARGEST,
    from_dict,
    parse_field,
    read_hardware,
    to_dict,
    write_hardware,
)
from ffebm_compiler.chip.hardware.presets import PRESETS
from ffebm_compiler.errors import OptionError, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUFFIXES = ["json", "toml"]


def number(q: Quantity) -> st.SearchStrategy[float]:
    high = 1e12 if q.high == math.inf else q.high
    return st.floats(q.low, high, exclude_min=q.above)


def law(q: Quantity) -> st.SearchStrategy[Any]:
    part = st.floats(-1e3, 1e3)
    bounds = st.tuples(st.one_of(part, st.just(-math.inf)), st.one_of(part, st.just(math.inf)))
    laws = st.tuples(part, part, bounds.filter(lambda b: b[0] <= b[1])).map(lambda t: LogLaw(t[0], t[1], *t[2]))
    return st.one_of(number(q), laws)


KINDS: dict[str, Callable[[Quantity], st.SearchStrategy[Any]]] = {
    "number": number,
    "count": lambda q: st.integers(int(q.low), 10**6 if q.high == math.inf else int(q.high)),
    "choice": lambda q: st.sampled_from(q.choices),
    "switch": lambda q: st.booleans(),
    "text": lambda q: st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    "law": law,
    "polynomial": lambda q: st.one_of(number(q), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8).map(tuple)),
}


@st.composite
def specifications(draw: st.DrawFn) -> Hardware:
    chosen = draw(st.sets(st.sampled_from(sorted(quantities()))))
    fields: dict[str, Any] = {}
    for name in sorted(chosen):
        q = quantities()[name]
        values = KINDS[q.kind](q)
        fields[name] = draw(st.one_of(st.none(), values) if q.optional else values)
    try:
        return Hardware(**fields)
    except OptionError:  # fields that do not fit each other
        reject()


@settings(max_examples=60, deadline=None)
@given(hardware=specifications(), suffix=st.sampled_from(SUFFIXES))
def test_a_file_gives_back_what_was_written(
    hardware: Hardware, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("chip") / f"chip.{suffix}"
    assert read_hardware(write_hardware(hardware, file)) == hardware


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(hardware=specifications())
def test_plain_values_give_back_what_they_were_made_of(hardware: Hardware) -> None:
    values = to_dict(hardware)
    assert from_dict(values) == hardware
    assert from_dict(json.loads(json.dumps(values))) == hardware


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_presets_survive(name: str, suffix: str, tmp_path: Path) -> None:
    assert read_hardware(write_hardware(PRESETS[name], tmp_path / f"chip.{suffix}")) == PRESETS[name]


def test_toml_has_a_line_with_unit_and_meaning_for_every_field(tmp_path: Path) -> None:
    lines = write_hardware(PRESETS["pcm"], tmp_path / "chip.toml").read_text().splitlines()
    for name, q in quantities().items():
        (line,) = [x for x in lines if x.startswith(f"{name} = ")]
        assert q.about in line
        assert q.unit in ("", "1") or f"# {q.unit}; " in line


def test_the_written_toml_holds_the_plain_values(tmp_path: Path) -> None:
    values = tomllib.loads(write_hardware(PRESETS["pcm"], tmp_path / "chip.toml").read_text())
    assert values["drift"] == {"intercept": 0.0244, "slope": -0.0155, "lowest": 0.049, "highest": 0.1}
    assert values["levels"] == "none"
    assert values["bidirectional"] is True
    assert values["tile_rows"] == 256


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    hardware = Hardware(offset=np.float64(0.1))
    for suffix in SUFFIXES:
        assert read_hardware(write_hardware(hardware, tmp_path / f"chip.{suffix}")).offset == 0.1


def test_the_unwritten_fields_of_a_document_are_ideal(tmp_path: Path) -> None:
    file = tmp_path / "chip.toml"
    file.write_text('g_min = "1 uS"\ng_max = "40 uS"\nsettling_time = "2 us"\ntemperature = "300 K"\n')
    assert read_hardware(file) == Hardware(g_min=1e-6, g_max=40e-6, settling_time=2e-6, temperature=300.0)


def test_a_preset_to_start_from(tmp_path: Path) -> None:
    file = tmp_path / "chip.toml"
    file.write_text('preset = "rram"\nname = "mine"\nadc_bits = 4\nlearning_bits = "none"\n')
    hardware = read_hardware(file)
    assert (hardware.name, hardware.adc_bits, hardware.learning_bits) == ("mine", 4, None)
    assert hardware.programming_error == PRESETS["rram"].programming_error


def test_an_empty_document_is_the_ideal_chip(tmp_path: Path) -> None:
    (tmp_path / "chip.toml").write_text("")
    (tmp_path / "chip.json").write_text("{}")
    assert read_hardware(tmp_path / "chip.toml") == read_hardware(tmp_path / "chip.json") == Hardware()


def test_whole_numbers_are_taken_where_a_number_is_meant() -> None:
    age = from_dict({"age": 3600}).age
    assert age == 3600
    assert isinstance(age, float)


def test_a_mark_of_byte_order_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "chip.json").write_bytes(b'\xef\xbb\xbf{"adc_bits": 8}')
    assert read_hardware(tmp_path / "chip.json").adc_bits == 8


# --- what is wrong ----------------------------------------------------------------------------------------

BAD_VALUES: list[tuple[dict[str, Any], str, str]] = [
    # values, field, words
    ({"g_max": "40 mV"}, "g_max", "a voltage, not a conductance"),
    ({"g_max": "40 us"}, "g_max", "a time, not a conductance"),
    ({"g_max": "40"}, "g_max", 'for example "40 uS"'),
    ({"g_max": "-40 uS"}, "g_max", "outside of (0, inf)"),
    ({"time_constant": "100 nF"}, "time_constant", "a capacitance, not a time"),
    ({"capacitance": "1 furlong"}, "capacitance", "no unit known"),
    ({"read_noise": "1 uS"}, "read_noise", "a conductance, not a pure number"),
    ({"offset": "5 %"}, "offset", "a pure number, not a voltage"),
    ({"adc_bits": "7.5 bit"}, "adc_bits", "not a whole number"),
    ({"adc_bits": "0 bit"}, "adc_bits", "outside of [1, 24]"),
    ({"adc_bits": 8.0}, "adc_bits", "not a whole number"),
    ({"g_max": "none"}, "g_max", "not a number"),
    ({"bidirectional": "true"}, "bidirectional", "Give True or False"),
    ({"adc_bit": 8}, "adc_bit", 'Did you mean "adc_bits"'),
    ({"G_max": 1e-4}, "G_max", '"g_max"'),
    ({"": 1}, "", "Known names"),
    ({3: 1}, "3", "Known names"),
    ({"devices": {"levels": 16}}, "devices", "without sections"),
    ({"g_max": {"value": 1}}, "g_max", "not a number"),
    ({"drift": {"slope": 0.1}}, "drift", "needs its intercept"),
    ({"drift": {"intercept": 0.1, "slop": 0.1}}, "drift", "no part 'slop'"),
    ({"drift": {"intercept": "0.1"}}, "drift", "not all numbers"),
    ({"drift": [0.1]}, "drift", "not a number"),
    ({"programming_error": {"intercept": 0.1}}, "programming_error", "not a number"),
    ({"preset": "rrma"}, "preset", 'Did you mean "rram"'),
    ({"preset": 3}, "preset", "Known names"),
    ({"preset": ["rram"]}, "preset", "Known names"),
]


@pytest.mark.parametrize(("values", "field", "words"), BAD_VALUES, ids=lambda v: str(v)[:30])
def test_bad_values(values: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        from_dict(values)
    (problem,) = caught.value.problems
    assert problem.where == f"hardware field {field}"
    assert words in str(problem)


def test_all_at_once_and_nothing_that_follows_from_another() -> None:
    """g_min does not fit the g_max that stands in for the unreadable one; that isn't the user's mistake."""
    with pytest.raises(OptionError) as caught:
        from_dict({"preset": "rrma", "g_max": "4 mV", "g_min": 1e-3, "adc_bit": 8, "tile_rows": 0})
    assert [p.where.split()[-1] for p in caught.value.problems] == ["preset", "g_max", "adc_bit", "tile_rows"]


@pytest.mark.parametrize("values", [[], "rram", None, 3])
def test_what_are_no_fields(values: Any) -> None:
    with pytest.raises(OptionError, match="not fields by name"):
        from_dict(values)


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("chip.json", b"{", "is not JSON"),
    ("chip.json", b"[1]", "not fields by name"),
    ("chip.json", b'{"adc_bits": 8, "adc_bits": 6}', "field adc_bits is there twice"),
    ("chip.json", b'{"drift": {"intercept": 1, "intercept": 2}}', "field intercept is there twice"),
    ("chip.json", b'{"g_max": NaN}', "field g_max: is nan: not a number"),
    ("chip.json", b'{"g_max": -Infinity}', "not finite"),
    ("chip.json", b'{"g_max": 1' + b"0" * 400 + b"}", "too large a number"),
    ("chip.json", b'{"g_max": 1' + b"0" * 5000 + b"}", "is not JSON"),
    ("chip.json", b'{"tile_rows": 1' + b"0" * 400 + b"}", "not finite"),
    ("chip.json", b'{"g_max": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    ("chip.json", b'{"g_max": ' + b"[" * 300 + b"]" * 300 + b"}", "not a number"),
    ("chip.json", b'{"name": "\xff"}', "not UTF-8 text: byte 10"),
    ("chip.json", b" " * (LARGEST + 1), "larger than 1 MiB"),
    ("chip.json", b"", "is not JSON"),
    ("chip.toml", b"adc_bits 8", "is not TOML"),
    ("chip.toml", b"adc_bits = 8\nadc_bits = 6", "is not TOML"),
    ("chip.toml", b"g_max = nan", "not a number"),
    ("chip.toml", b"age = 2024-01-01", "not a number"),
    ("chip.toml", b"[devices]\nlevels = 16", "without sections"),
    ("chip.toml", b"g_max = " + b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
    ("chip.toml", b"name = '\xff'", "not UTF-8"),
    ("chip.yaml", b"adc_bits: 8", "neither .toml nor .json"),
    ("chip", b"", "neither .toml nor .json"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES, ids=lambda v: str(v)[:25])
def test_bad_files(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(OptionError) as caught:
        read_hardware(file)
    (problem,) = caught.value.problems
    assert problem.where.startswith(f"hardware file {file}")
    assert words in str(problem)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    for name, words in [("folder.toml", "is no file"), ("pipe.toml", "is no file"), ("no.toml", "does not exist")]:
        with pytest.raises(OptionError, match=words):
            read_hardware(tmp_path / name)
    with pytest.raises(OptionError, match="can't be read"):
        read_hardware("chip\0.toml")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_bytes_are_read_or_refused(suffix: str, content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("any") / f"chip.{suffix}"
    file.write_bytes(content)
    problems: tuple[Problem, ...] = ()
    try:
        read_hardware(file)
    except OptionError as error:
        problems = error.problems
    assert all(p.where.startswith(f"hardware file {file}") for p in problems)


class TestWriting:
    def test_an_unknown_suffix(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="neither"):
            write_hardware(Hardware(), tmp_path / "chip.yaml")
        assert not list(tmp_path.iterdir())

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="does not exist"):
            write_hardware(Hardware(), tmp_path / "no" / "chip.toml")

    def test_a_name_that_no_file_can_hold_leaves_the_old_file(self, tmp_path: Path) -> None:
        file = write_hardware(Hardware(), tmp_path / "chip.toml")
        with pytest.raises(OptionError, match="hardware field name"):
            write_hardware(Hardware(name="\ud800"), file)
        assert read_hardware(file) == Hardware()
        assert list(tmp_path.iterdir()) == [file]


# --- one field from a command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("read_noise", "0.1", 0.1),
        ("read_noise", "5 %", 0.05),
        ("adc_bits", "8", 8),
        ("adc_bits", "8 bits", 8),
        ("adc_bits", "none", None),
        ("adc_bits", "None", None),
        ("tile_rows", "64", 64),
        ("g_max", "40 uS", 40e-6),
        ("g_max", "4e-5", 4e-5),
        ("settling_time", "2us", 2e-6),
        ("settling_time", "none", None),
        ("drift_compensation", "True", True),
        ("drift_compensation", "false", False),
        ("write", "pulses", "pulses"),
        ("name", "none", "none"),
        ("drift", "0.05", 0.05),
        ("drift", '{"intercept": 0.05, "slope": -0.01}', LogLaw(0.05, -0.01)),
        ("programming_error", "0.05", 0.05),
        ("programming_error", "[0.01, 0.05]", (0.01, 0.05)),
    ],
)
def test_a_text_as_a_value(name: str, text: str, value: Any) -> None:
    read = parse_field(name, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("adc_bit", "8", 'Did you mean "adc_bits"'),
        ("adc_bits", "eight", "not a number"),
        ("adc_bits", "7.5", "not a whole number"),
        ("adc_bits", "", "not a number"),
        ("g_max", "none", "not a number"),
        ("g_max", "40 mV", "a voltage, not a conductance"),
        ("read_noise", "-0.1", "outside of"),
        ("read_noise", "nan", "not a number"),
        ("read_noise", "1e9999", "not finite"),
        ("drift_compensation", "1", "Give True or False"),
        ("write", "Pulses", "ideal, quantised, pulses"),
        ("programming_error", "[0.1", "as JSON writes them"),
        ("programming_error", "[" * 100_000, "as JSON writes them"),
        ("drift", '{"slope": 1}', "needs its intercept"),
        ("drift", "[0.1]", "not a number"),
    ],
)
def test_a_text_that_is_no_value(name: str, text: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_field(name, text)
    (problem,) = caught.value.problems
    assert problem.where == f"hardware field {name}"
    assert words in str(problem)
