"""Sweeps as a user types them: ``name=start:stop:count``, ``name=start:stop:countlog`` or ``name=a,b,c``.

With n values from a to b, the i-th is ``a (1 - p) + b p``, p = i / (n - 1), or logarithmically ``a (b / a)^p``. A name
is a field of the hardware specification, or ``loop_gain`` or ``block_size`` of the conversion; a value may carry its
unit as in a specification (``g_max=20 uS,40 uS``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..chip.hardware import Quantity, quantities
from ..chip.hardware.documents import parse_field
from ..errors import OptionError, Problem, close_matches

Value = float | int | bool | str | None

MOST = 100_000
"""The most values of one sweep, and points of one study."""

CONVERSION: Mapping[str, Quantity] = {
    "loop_gain": Quantity(
        "conversion", "1", "bound on the loop gain of every coupling", low=0.0, above=True, optional=True
    ),
    "block_size": Quantity("conversion", "1", "weighted layers a block", "count", low=1),
}
"""What is swept of the conversion rather than of the hardware."""

HOW = (
    "Write name=start:stop:count, name=start:stop:countlog or name=a,b,c: "
    "read_noise=0:0.1:11, age=20:1e6:6log, adc_bits=4,6,8."
)
NUMBERS = ("number", "count", "law", "polynomial")
RANGE = re.compile(r"(?P<start>[^:]*):(?P<stop>[^:]*):(?P<count>\d+)(?P<log>log)?")


@dataclass(frozen=True)
class Axis:
    """What is swept, and its values in order."""

    name: str
    values: tuple[Value, ...]

    @property
    def quantity(self) -> Quantity:
        return sweepable()[self.name]


def shown(value: Value) -> str:
    """A value as tables and plots print it."""
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sweepable() -> dict[str, Quantity]:
    """What can be swept: the fields of the specification but its name, and the options of the conversion."""
    return {**{n: q for n, q in quantities().items() if q.kind != "text"}, **CONVERSION}


def parse_sweeps(texts: Sequence[str]) -> tuple[Axis, ...]:
    """One axis a text, in order.

    Raises:
        OptionError: with every problem of every text.
    """
    problems: list[Problem] = []
    axes = []
    for text in texts:
        try:
            axes.append(parse_sweep(text))
        except OptionError as failure:
            problems += failure.problems
    problems += _repeated([text.partition("=")[0].strip() for text in texts])
    OptionError.raise_if(problems)
    return tuple(axes)


def parse_sweep(text: str) -> Axis:
    """``read_noise=0:0.1:11`` as an axis of eleven values.

    Raises:
        OptionError: with every problem of the text.
    """
    name, sign, given = (part.strip() for part in text.partition("="))
    if not sign or not name:
        _refuse(text, "names nothing to sweep", HOW)
    if name not in sweepable():
        _refuse(text, f"there is no {name!r} to sweep", close_matches(name, list(sweepable())))
    if not given:
        _refuse(text, "has no values", HOW)
    values = _range(text, name, given) if ":" in given else _listed(text, name, given)
    twice = [repr(value) for value, times in Counter(values).items() if times > 1]
    if twice:
        _refuse(text, f"has {', '.join(twice[:5])} more than once", "Give each value once.")
    return Axis(name, values)


def _refuse(text: str, what: str, remedy: str) -> NoReturn:
    raise OptionError.at(f"sweep {text!r}", what, remedy)


def _repeated(names: Sequence[str]) -> Iterator[Problem]:
    for name, times in Counter(names).items():
        if name and times > 1:
            yield Problem(f"sweep of {name}", f"is given {times} times", "Give all its values in one --sweep.")


# --- values -----------------------------------------------------------------------------------------------


def _listed(text: str, name: str, given: str) -> tuple[Value, ...]:
    parts = [part.strip() for part in given.split(",")]
    if not all(parts):
        _refuse(text, "has an empty value between its commas", HOW)
    if len(parts) > MOST:
        _refuse(text, f"has {len(parts)} values", f"Give at most {MOST:,}.")
    return _parsed(text, name, parts)


def _range(text: str, name: str, given: str) -> tuple[Value, ...]:
    match = RANGE.fullmatch(given.replace(" log", "log"))
    if match is None:
        _refuse(text, "is not a range start:stop:count", HOW)
    if sweepable()[name].kind not in NUMBERS:
        _refuse(text, f"{name} is no number that a range could run through", f"List its values: {name}=a,b.")
    ends, number = _parsed(text, name, [match["start"], match["stop"]]), int(match["count"])
    start, stop = (_end(text, end) for end in ends)
    if not 2 <= number <= MOST:
        _refuse(text, f"asks for {number} values", f"Give from 2 to {MOST:,}; a single value is {name}={start:g}.")
    if match["log"] and not (start > 0 and stop > 0):
        _refuse(text, "runs logarithmically through zero or below", "Start and stop above 0, or leave log out.")
    steps = [(_geometric if match["log"] else _linear)(start, stop, i / (number - 1)) for i in range(number)]
    return _whole(text, name, steps) if sweepable()[name].kind == "count" else tuple(steps)


def _end(text: str, value: Value) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        _refuse(text, f"{value!r} is no end of a range", "Give two finite numbers.")
    return float(value)


def _linear(start: float, stop: float, part: float) -> float:
    return _tidy(start * (1 - part) + stop * part)  # which ends at stop exactly


def _geometric(start: float, stop: float, part: float) -> float:
    return _tidy(start * (stop / start) ** part)


def _tidy(value: float) -> float:
    """0.3 rather than 0.30000000000000004, which nobody would type to go on with."""
    return float(f"{value:.12g}")


def _whole(text: str, name: str, steps: Sequence[float]) -> tuple[Value, ...]:
    broken = [f"{step:g}" for step in steps if step != round(step)]
    if broken:
        _refuse(text, f"{name} is a whole number, and the range runs through {broken[0]}", f"List them: {name}=4,6,8.")
    return tuple(round(step) for step in steps)


def _parsed(text: str, name: str, parts: Sequence[str]) -> tuple[Value, ...]:
    """Every part by the field's type; what can't be read is told for all parts at once."""
    parse: Callable[[str, str], Any] = _conversion_value if name in CONVERSION else parse_field
    values, problems = [], list[Problem]()
    for part in parts:
        try:
            values.append(parse(name, part.strip()))
        except OptionError as failure:
            problems += [Problem(f"sweep {text!r}", f"{p.where}: {p.what}", p.remedy) for p in failure.problems]
    OptionError.raise_if(problems)
    return tuple(values)


def _conversion_value(name: str, part: str) -> Value:
    quantity, where = CONVERSION[name], f"option {name}"
    try:
        return quantity.from_text(part, where)  # type: ignore[no-any-return]
    except OptionError as failure:
        kind = "whole numbers" if quantity.kind == "count" else "numbers"
        least = f"{'above' if quantity.above else 'from'} {quantity.low:g}{', or none' if quantity.optional else ''}"
        raise OptionError.at(where, f"can't be {part!r}", f"Give {kind} {least}: {quantity.about}.") from failure
