"""Every bad specification is one clear error that names the field, from Python, from plain values and from a file
alike.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from ffebm_compiler.chip.hardware import Hardware, LogLaw, defaults, quantities
from ffebm_compiler.chip.hardware.documents import from_dict, parse_field, read_hardware
from ffebm_compiler.errors import OptionError

BAD: list[tuple[str, Any, str]] = [
    # field, value, words of the error
    ("g_min", -1e-6, "outside of [0, inf)"),
    ("g_max", -1e-4, "outside of (0, inf)"),
    ("g_max", 0.0, "outside of (0, inf)"),
    ("g_max", math.nan, "not a number"),
    ("g_max", math.inf, "not finite"),
    ("g_max", 10**400, "not finite"),
    ("g_max", None, "not a number"),
    ("g_max", "large", "not a number"),
    ("g_max", True, "not a number"),
    ("g_max", [1e-4], "not a number"),
    ("tile_rows", 0, "outside of [1, inf)"),
    ("tile_columns", 0, "outside of [1, inf)"),
    ("tile_rows", -128, "outside of [1, inf)"),
    ("tile_rows", 64.5, "not a whole number"),
    ("tile_rows", None, "not a whole number"),
    ("tile_rows", "many", "not a number"),
    ("bidirectional", "False", "Give True or False"),
    ("bidirectional", 1, "Give True or False"),
    ("bidirectional", None, "Give True or False"),
    ("line_resistance", -1.0, "Ohm in [0, inf)"),
    ("levels", 1, "outside of [2, inf)"),
    ("levels", 0, "or None"),
    ("levels", 15.5, "not a whole number"),
    ("programming_error", -0.1, "outside of [0, inf)"),
    ("programming_error", [], "between 1 and 8 coefficients"),
    ("programming_error", [0.1] * 9, "between 1 and 8 coefficients"),
    ("programming_error", [0.1, math.nan], "not all finite"),
    ("programming_error", [0.1, "0.2"], "not all finite"),
    ("programming_error", [0.1, 10**400], "not all finite"),
    ("read_noise", -0.01, "outside of [0, inf)"),
    ("read_noise", math.nan, "not a number"),
    ("read_noise_exponent", 3.0, "outside of [0, 2]"),
    ("read_noise_correlation", 1.5, "outside of [0, 1]"),
    ("read_noise_flicker", "yes", "Give True or False"),
    ("drift", -0.05, "outside of [0, inf)"),
    ("drift_spread", math.inf, "not finite"),
    ("drift_start", 0.0, "s in (0, inf)"),
    ("age", -1.0, "s in [0, inf)"),
    ("stuck_low", 1.01, "outside of [0, 1]"),
    ("stuck_high", -0.1, "outside of [0, 1]"),
    ("dac_bits", 0, "outside of [1, 24]"),
    ("adc_bits", 0, "outside of [1, 24]"),
    ("adc_bits", 7.5, "not a whole number"),
    ("adc_bits", True, "not a whole number"),
    ("adc_bits", 25, "outside of [1, 24]"),
    ("nudge_bits", 1, "outside of [2, 24]"),
    ("learning_bits", 1, "outside of [2, 24]"),
    ("learning_readout", "both", "states, difference"),
    ("learning_readout", 2, "states, difference"),
    ("calibration_quantile", 0.0, "outside of (0, 1]"),
    ("full_scale", 0.0, "V in (0, inf)"),
    ("headroom", 0.5, "outside of [1, inf)"),
    ("offset", -1e-3, "V in [0, inf)"),
    ("gain_mismatch", 2.0, "outside of [0, 1]"),
    ("reverse_gain_error", -0.1, "outside of [0, 1]"),
    ("time_constant", 0.0, "s in (0, inf)"),
    ("settling_time", 0.0, "or None"),
    ("temperature", -1.0, "K in [0, inf)"),
    ("capacitance", 0.0, "F in (0, inf)"),
    ("nudge", 0.0, "outside of (0, 10]"),
    ("write", "pulse", "ideal, quantised, pulses"),
    ("write", None, "ideal, quantised, pulses"),
    ("pulse_step", 0.0, "outside of (0, 1]"),
    ("pulse_nonlinearity", 1.5, "outside of [0, 1]"),
    ("pulse_asymmetry", 1.0, "outside of [0, 0.99]"),
    ("pulse_variation", -1.0, "outside of [0, inf)"),
    ("step_variation", math.nan, "not a number"),
    ("physics", "spiking", "hopfield, resistive"),
    ("physics", 1, "hopfield, resistive"),
    ("name", "", "at most 200 characters"),
    ("name", "x" * 201, "at most 200 characters"),
    ("name", 7, "at most 200 characters"),
]

TOGETHER: list[tuple[dict[str, Any], str, str]] = [
    # fields that are fine one by one, the words that name them, words of the remedy
    ({"g_min": 2e-4}, "g_min and g_max", "g_min below g_max"),
    ({"g_min": 1e-4, "g_max": 1e-4}, "g_min and g_max", "g_min below g_max"),
    ({"settling_time": 1e9}, "settling_time and time_constant", "at most 10,000 time constants"),
    ({"settling_time": 1e-5, "time_constant": 1e-300}, "settling_time and time_constant", "or None"),
    ({"stuck_low": 0.7, "stuck_high": 0.4}, "stuck_low and stuck_high", "at most 1"),
    ({"age": 5.0, "drift": 0.05}, "age", "drift_start"),
    ({"age": 5.0, "drift_spread": 0.05}, "age", "drift_start"),
    ({"physics": "resistive", "bidirectional": False}, "physics and bidirectional", "Leave bidirectional at True"),
]


def only_problem(build: Any, *args: Any, **fields: Any) -> Any:
    with pytest.raises(OptionError) as caught:
        build(*args, **fields)
    assert len(caught.value.problems) == 1, str(caught.value)
    return caught.value.problems[0]


def label(case: tuple[str, Any, str]) -> str:
    return f"{case[0]}={str(case[1])[:12]}"


@pytest.mark.parametrize(("field", "value", "words"), BAD, ids=map(label, BAD))
def test_in_python(field: str, value: Any, words: str) -> None:
    problem = only_problem(Hardware, **{field: value})
    assert problem.where == f"hardware field {field}"
    if value not in ("large", "many"):  # words of a document
        assert words in str(problem)
    assert len(str(problem)) < 500


@pytest.mark.parametrize(("field", "value", "words"), BAD, ids=map(label, BAD))
def test_as_plain_values(field: str, value: Any, words: str) -> None:
    problem = only_problem(from_dict, {field: value})
    assert problem.where == f"hardware field {field}"
    if value != 10**400:  # already too large for the float that it should be
        assert words in str(problem)


WRITABLE = [c for c in BAD if c[1] != 10**400]


@pytest.mark.parametrize(("field", "value", "words"), WRITABLE, ids=map(label, WRITABLE))
def test_in_a_file(field: str, value: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "chip.json"
    file.write_text(json.dumps({field: value}))
    problem = only_problem(read_hardware, file)
    assert problem.where == f"hardware file {file}, field {field}"
    assert words in str(problem)


TYPED = [c for c in BAD if isinstance(c[1], (int, float)) and not isinstance(c[1], bool) and c[1] != 10**400]
TYPED = [c for c in TYPED if quantities()[c[0]].kind not in ("text", "choice", "switch")]


@pytest.mark.parametrize(("field", "value", "words"), TYPED, ids=map(label, TYPED))
def test_on_a_command_line(field: str, value: Any, words: str) -> None:
    assert only_problem(parse_field, field, str(value)).where == f"hardware field {field}"


@pytest.mark.parametrize(("fields", "names", "remedy"), TOGETHER)
def test_fields_that_do_not_fit_each_other(fields: dict[str, Any], names: str, remedy: str) -> None:
    for problem in (only_problem(Hardware, **fields), only_problem(from_dict, fields)):
        assert names in problem.where
        assert remedy in str(problem)


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (LogLaw(math.nan), "not all numbers"),
        (LogLaw(math.inf), "not finite"),
        (LogLaw(0.1, slope=math.inf), "not finite"),
        (LogLaw(0.1, slope=10**400), "not finite"),
        (LogLaw(0.1, lowest=0.2, highest=0.1), "lowest is above its highest"),
        (LogLaw("0.1"), "not all numbers"),  # type: ignore[arg-type]
        (LogLaw(True), "not all numbers"),
    ],
)
@pytest.mark.parametrize("field", ["drift", "drift_spread"])
def test_laws(field: str, law: LogLaw, words: str) -> None:
    problem = only_problem(Hardware, **{field: law})
    assert problem.where == f"hardware field {field}"
    assert words in problem.what


def test_all_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        Hardware(g_max=-1.0, adc_bits=0, write="never", tile_rows=0)
    assert [p.where.split()[-1] for p in caught.value.problems] == ["g_max", "tile_rows", "adc_bits", "write"]
    assert str(caught.value).startswith("4 problems:")


def test_two_pairs_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        Hardware(g_min=1.0, stuck_low=0.6, stuck_high=0.6)
    assert len(caught.value.problems) == 2


def test_an_unknown_field_in_python_is_named() -> None:
    with pytest.raises(TypeError, match="adc_bit"):
        Hardware(adc_bit=8)  # type: ignore[call-arg]


def test_positions_are_refused() -> None:
    with pytest.raises(TypeError):
        Hardware("chip")  # type: ignore[misc]


def test_a_replaced_field_is_checked() -> None:
    assert only_problem(dataclasses.replace, Hardware(), adc_bits=0).where == "hardware field adc_bits"


def test_the_default_is_ideal_and_frozen() -> None:
    hardware = Hardware()
    assert hardware.thermal_noise == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        hardware.adc_bits = 8  # type: ignore[misc]


def test_thermal_noise_of_a_picofarad_at_room_temperature() -> None:
    """The textbook's 64 uV."""
    assert Hardware(temperature=300.0, capacitance=1e-12).thermal_noise == pytest.approx(64.36e-6, rel=1e-3)


def test_it_can_be_copied_between_processes_and_hashed() -> None:
    hardware = Hardware(drift=LogLaw(0.1, lowest=0.0), programming_error=[0.1, 0.2])  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(hardware)) == hardware
    assert len({hardware, dataclasses.replace(hardware)}) == 1


def test_every_field_is_described() -> None:
    assert list(quantities()) == list(defaults()) == [f.name for f in dataclasses.fields(Hardware)]
    for name, quantity in quantities().items():
        assert quantity.about, name
        assert not quantity.about.endswith("."), name
        assert quantity.unit in {"", "1", "S", "V", "Ohm", "s", "K", "F", "bit", "g_max"}, name
        assert bool(quantity.choices) == (quantity.kind == "choice"), name
