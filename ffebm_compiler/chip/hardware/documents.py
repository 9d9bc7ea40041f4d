"""A specification as a document: TOML or JSON with the names of the fields of :class:`Hardware`, in any order.

A value is a number in the field's unit, or a text with its own unit (``"40 uS"``); ``"none"`` (or JSON's null) switches
a limit off. ``preset = "rram"`` starts from that chip instead of the ideal one. Every problem of a document is reported
at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import OptionError, Problem, close_matches
from ...files import check_target, write_whole
from .preset_tables import PRESETS
from .quantity import INFINITY, LAW_PARTS, LogLaw, Quantity
from .specification import Hardware, field_problem, quantities
from .units import QuantityError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 1 << 20
"""Bytes of a document; a complete one has four thousand."""

PRESET = "preset"


# --- plain values -----------------------------------------------------------------------------------------


def to_dict(hardware: Hardware) -> dict[str, Any]:
    """Every field as a plain value: numbers, texts, lists, None, and a dictionary for a :class:`LogLaw`."""
    return {name: _plain(getattr(hardware, name)) for name in quantities()}


def from_dict(values: Mapping[str, Any], where: str = "hardware") -> Hardware:
    """The specification of plain values, as :func:`to_dict` gives them or a person writes them.

    Args:
        where: what errors call the place, ``"hardware file chip.toml"``.

    Raises:
        OptionError: with everything that can't be used.
    """
    if not isinstance(values, Mapping):
        raise OptionError.at(where, f"is {type(values).__name__}, not fields by name", 'Give {"adc_bits": 8, ...}.')
    problems: list[Problem] = []
    start = _start(values, problems)
    read = dict(_read(values, problems))
    if not problems:
        try:
            return replace(start, **read)
        except OptionError as failure:  # fields that are fine one by one
            problems += failure.problems
    raise OptionError(_placed(problem, where) for problem in problems)


def parse_field(name: str, text: str) -> Any:
    """A field's value from a text such as a command line has: ``"0.1"``, ``"8"``, ``"none"``, ``"True"``, ``"40 uS"``.

    Raises:
        OptionError: no such field, or no value of it.
    """
    if (quantity := quantities().get(name)) is None:
        raise OptionError(_unknown(name))
    return quantity.from_text(text, f"hardware field {name}")


def _placed(problem: Problem, where: str) -> Problem:
    """``hardware field g_max`` becomes ``hardware file chip.toml, field g_max``."""
    if where == "hardware":
        return problem
    return replace(problem, where=f"{where},{problem.where.removeprefix('hardware')}")


def _start(values: Mapping[str, Any], problems: list[Problem]) -> Hardware:
    name = values.get(PRESET, "ideal")
    if isinstance(name, str) and name in PRESETS:
        start = PRESETS[name]
        return start if PRESET in values else replace(start, name="custom")
    known = close_matches(name if isinstance(name, str) else "", list(PRESETS))
    problems.append(Problem("hardware field preset", f"is {name!r}, not the name of a preset", known))
    return Hardware()


def _read(values: Mapping[str, Any], problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """The fields whose values are right; the others go to the problems."""
    known = quantities()
    for name, given in values.items():
        if name == PRESET:
            continue
        if name not in known:
            problems.append(_unknown(name, given))
            continue
        try:
            value = known[name].from_plain(given)
            problem = field_problem(name, value)
        except QuantityError as failure:
            problem = known[name].unreadable(f"hardware field {name}", given, failure)
        if problem is None:
            yield name, value
        else:
            problems.append(problem)


def _plain(value: Any) -> Any:
    if isinstance(value, LogLaw):
        parts = {name: _plain(getattr(value, name)) for name in LAW_PARTS}
        return {name: part for name, part in parts.items() if part not in (INFINITY, -INFINITY)}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return float(value) if isinstance(value, float) else value  # a subclass, as NumPy's, prints its own name


def _unknown(name: object, given: object = None) -> Problem:
    known = quantities()
    if isinstance(given, Mapping) and name in {q.group for q in known.values()}:
        return Problem(
            f"hardware field {name}", "is a section", "Write the fields without sections; their names differ."
        )
    return Problem(f"hardware field {str(name)[:80]}", "does not exist", close_matches(str(name), list(known)))


# --- files ------------------------------------------------------------------------------------------------


def read_hardware(path: str | os.PathLike[str]) -> Hardware:
    """The specification in a .toml or .json file.

    Raises:
        OptionError: the file can't be read, or everything in it that can't be used.
    """
    file = Path(path)
    where = f"hardware file {file}"
    load = _LOADERS[_suffix(file)]
    text = _text(file, where)
    try:
        return from_dict(load(text), where)
    except OptionError:
        raise
    except RecursionError as failure:
        raise OptionError.at(where, "is nested too deep", _FLAT) from failure
    except ValueError as failure:  # both formats' errors are, and say the line
        raise OptionError.at(where, f"is not {_suffix(file)[1:].upper()}: {failure}", _FLAT) from failure


def write_hardware(hardware: Hardware, path: str | os.PathLike[str]) -> Path:
    """Writes a specification as .toml, with every field's unit and meaning beside it, or as .json.

    Raises:
        OptionError: the file can't be written.
    """
    target = check_target(path, "hardware file")
    text = _WRITERS[_suffix(target)](hardware)
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as failure:
        problem = Problem("hardware field name", "has characters that no file can hold", "Give a plain name.")
        raise OptionError(problem) from failure
    return write_whole(target, content, "hardware file")


_FLAT = (
    "Give one field a line, such as: adc_bits = 8 (TOML) or an object {...} (JSON); docs/hardware.md has an example."
)


def _suffix(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix not in _LOADERS:
        raise OptionError.at(f"hardware file {file}", "is neither .toml nor .json", "Name it chip.toml or chip.json.")
    return suffix


def _text(file: Path, where: str) -> str:
    try:
        if file.exists() and not file.is_file():
            raise OptionError.at(where, "is no file", "Name a file in it." if file.is_dir() else "Name a file.")
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except FileNotFoundError as failure:
        raise OptionError.at(where, "does not exist", "Check the path; write one by write_hardware.") from failure
    except (OSError, ValueError) as failure:  # ValueError: a path with a null character
        reason = getattr(failure, "strerror", None) or failure
        raise OptionError.at(where, f"can't be read: {reason}", "Name a file that you may read.") from failure
    if len(content) > LARGEST:
        raise OptionError.at(where, "is larger than 1 MiB", "Is it a specification? A complete one has 4 kB.")
    try:
        return content.decode("utf-8-sig")  # some editors write a mark of order in front
    except UnicodeDecodeError as failure:
        raise OptionError.at(where, f"is not UTF-8 text: byte {failure.start}", "Save it as UTF-8.") from failure


def _without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """JSON keeps the last of two equal keys; here that is an error, as it is in TOML."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"field {name} is there twice")
        values[name] = value
    return values


def _write_toml(hardware: Hardware) -> str:
    lines, group = ["# Every field, its unit and its meaning; docs/hardware.md says more."], None
    for name, value in to_dict(hardware).items():
        quantity = quantities()[name]
        if quantity.group != group:
            group = quantity.group
            lines += ["", f"# --- {group} ---"]
        lines.append(f"{name} = {_toml(value)}  # {_comment(quantity)}")
    return "\n".join(lines) + "\n"


def _comment(quantity: Quantity) -> str:
    unit = f"{quantity.unit}; " if quantity.in_unit else ""
    choices = f" ({', '.join(quantity.choices)})" if quantity.choices else ""
    return unit + quantity.about + choices


def _toml(value: Any) -> str:
    """A plain value; TOML has no null, and forbids one control character that JSON allows."""
    if value is None:
        return '"none"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_LOADERS: Mapping[str, Callable[[str], Any]] = {
    ".toml": tomllib.loads,
    ".json": lambda text: json.loads(text, object_pairs_hook=_without_twins),
}
_WRITERS: Mapping[str, Callable[[Hardware], str]] = {
    ".toml": _write_toml,
    ".json": lambda chip: json.dumps(to_dict(chip), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
}
