"""What a number of a specification is: its unit, its meaning, its bounds, and how people write it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ...errors import OptionError, Problem
from .units import QuantityError, example, parse_quantity

INFINITY = math.inf


@dataclass(frozen=True)
class LogLaw:
    """``clip(intercept + slope * ln(g / g_max), lowest, highest)``: a device constant that depends on its conductance.

    Attributes:
        intercept: the value at ``g_max``.
        slope: change per e-fold of the conductance.
        lowest, highest: bounds of the value.
    """

    intercept: float
    slope: float = 0.0
    lowest: float = -INFINITY
    highest: float = INFINITY


LAW_PARTS = tuple(f.name for f in fields(LogLaw))


@dataclass(frozen=True)
class Quantity:
    """What a field of the specification is.

    Attributes:
        group: the part of the chip that it describes.
        unit: ``"S"``, ``"V"``, ``"1"`` for a pure number, ``"bit"``, or ``""`` for a choice.
        about: one sentence.
        kind: ``"number"``, ``"count"``, ``"choice"``, ``"switch"``, ``"law"`` (a number or a :class:`LogLaw`),
            ``"polynomial"`` (a number or coefficients), ``"text"``.
        low, high: bounds, inclusive; ``above`` excludes ``low``.
        choices: of a choice.
        optional: whether None is allowed.
    """

    group: str
    unit: str
    about: str
    kind: str = "number"
    low: float = 0.0
    high: float = INFINITY
    above: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False

    def problem(self, where: str, value: object) -> Problem | None:
        """What is wrong with a value, if anything is."""
        what = None if value is None and self.optional else KINDS[self.kind].fault(value, self)
        return None if what is None else Problem(where, f"is {_shortened(value)}: {what}", self.remedy)

    def from_text(self, text: str, where: str) -> Any:
        """The value of a text such as a command line has: ``"0.1"``, ``"8"``, ``"none"``, ``"True"``, ``"40 uS"``.

        Raises:
            OptionError: the text is no value of this quantity.
        """
        try:
            value = KINDS[self.kind].read(text, self, True)
        except QuantityError as failure:
            raise OptionError(self.unreadable(where, text, failure)) from failure
        if (problem := self.problem(where, value)) is not None:
            raise OptionError(problem)
        return value

    def from_plain(self, given: Any) -> Any:
        """A value of a document as a specification holds it; what can't be one is left for :meth:`problem` to refuse.

        Raises:
            QuantityError: a text, or a law, that can't be read.
        """
        if isinstance(given, str):
            return KINDS[self.kind].read(given, self, False)
        if isinstance(given, Mapping) and self.kind == "law":
            return _law_of(given)
        if isinstance(given, list) and self.kind == "polynomial":
            return tuple(given)
        if isinstance(given, int) and not isinstance(given, bool) and self.kind in ("number", "law", "polynomial"):
            return _float(given)
        return given

    def unreadable(self, where: str, given: object, why: QuantityError) -> Problem:
        """The problem of a value that can't be read."""
        how = f"Write it{self.in_unit}, for example {example(self.unit)}: {self.about}."
        return Problem(where, f"is {str(given)[:80]!r}: {why}", how)

    @property
    def in_unit(self) -> str:
        return "" if self.unit in ("1", "") else f" in {self.unit}"

    @property
    def interval(self) -> str:
        high = "inf)" if self.high == INFINITY else f"{self.high:g}]"
        return f"{'(' if self.above else '['}{self.low:g}, {high}"

    @property
    def remedy(self) -> str:
        if self.kind == "choice":
            return f"Give one of {', '.join(self.choices)}."
        if self.kind == "switch":
            return f"Give True or False: {self.about}."
        if self.kind == "text":
            return "Give a name of at most 200 characters."
        number = "a whole number" if self.kind == "count" else "a number"
        none = ", or None" if self.optional else ""
        return f"Give {number}{self.in_unit} in {self.interval}{none}: {self.about}."


def _shortened(value: object) -> str:
    """The value as text, also where Python refuses to write a whole number of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _law_of(given: Mapping[str, Any]) -> LogLaw:
    unknown = [str(k) for k in given if k not in LAW_PARTS]
    if unknown:
        raise QuantityError(f"a law has no part {unknown[0]!r}; its parts are {', '.join(LAW_PARTS)}")
    if "intercept" not in given:
        raise QuantityError("a law needs its intercept")
    return LogLaw(**given)


def _float(number: int) -> float:
    try:
        return float(number)
    except OverflowError as failure:
        raise QuantityError("too large a number") from failure


# --- faults: what is wrong with a value -------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float holds."""
    try:
        return _is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


def _number_fault(value: Any, q: Quantity) -> str | None:
    if not _is_number(value):
        return "not a number"
    if not _is_finite(value):
        return "not finite"
    outside = value < q.low or value > q.high or (q.above and value == q.low)
    return f"outside of {q.interval}" if outside else None


def _count_fault(value: Any, q: Quantity) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return _number_fault(value, q) if whole else "not a whole number"


def _choice_fault(value: Any, q: Quantity) -> str | None:
    return None if isinstance(value, str) and value in q.choices else "not one of its choices"


def _switch_fault(value: Any, q: Quantity) -> str | None:
    return None if isinstance(value, bool) else "neither True nor False"


def _text_fault(value: Any, q: Quantity) -> str | None:
    return None if isinstance(value, str) and 0 < len(value) <= 200 else "not a short text"


def _law_fault(value: Any, q: Quantity) -> str | None:
    if not isinstance(value, LogLaw):
        return _number_fault(value, q)
    if not all(_is_number(getattr(value, part)) for part in LAW_PARTS):
        return "its parts are not all numbers"
    if not (_is_finite(value.intercept) and _is_finite(value.slope)):
        return "its intercept and slope are not finite"
    return None if value.lowest <= value.highest else "its lowest is above its highest"


def _polynomial_fault(value: Any, q: Quantity) -> str | None:
    if not isinstance(value, tuple):
        return _number_fault(value, q)
    if not 1 <= len(value) <= 8:
        return "not between 1 and 8 coefficients"
    return None if all(map(_is_finite, value)) else "its coefficients are not all finite numbers"


# --- readers: the value of a text; bare: a number may come without its unit, as on a command line ---------------


def _read_number(text: str, q: Quantity, bare: bool) -> float | None:
    if q.optional and text.strip().lower() == "none":
        return None
    return parse_quantity(text, q.unit, bare)


def _read_count(text: str, q: Quantity, bare: bool) -> float | int | None:
    number = _read_number(text, q, bare)
    return int(number) if number is not None and number.is_integer() else number


def _read_switch(text: str, q: Quantity, bare: bool) -> Any:
    # In a document 'False' is a text, which would count as true elsewhere; on a command line everything is a text.
    return {"true": True, "false": False}.get(text.strip().lower(), text) if bare else text


def _read_word(text: str, q: Quantity, bare: bool) -> str:
    return text


def _read_structure(text: str, q: Quantity, bare: bool) -> Any:
    """A number, or a list or a law as JSON writes them."""
    if not bare or not text.lstrip().startswith(("[", "{")):
        return _read_number(text, q, bare)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise QuantityError("not a list or a law as JSON writes them") from failure
    return q.from_plain(given)


class Kind(NamedTuple):
    """What a kind of quantity accepts: ``fault`` says what is wrong with a value, ``read`` makes a value of a text."""

    fault: Callable[[Any, Quantity], str | None]
    read: Callable[[str, Quantity, bool], Any]


KINDS: Mapping[str, Kind] = {
    "number": Kind(_number_fault, _read_number),
    "count": Kind(_count_fault, _read_count),
    "choice": Kind(_choice_fault, _read_word),
    "switch": Kind(_switch_fault, _read_switch),
    "text": Kind(_text_fault, _read_word),
    "law": Kind(_law_fault, _read_structure),
    "polynomial": Kind(_polynomial_fault, _read_structure),
}
