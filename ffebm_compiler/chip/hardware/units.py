"""A number with its unit, as people write it: ``"40 uS"``, ``"100 ns"``, ``"2 kOhm"``, ``"5 %"``, ``"8 bit"``.

The number is shifted in decimal, so that ``"40 uS"`` is exactly the float 40e-6.
"""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException

PREFIXES = {"": 0, "f": -15, "p": -12, "n": -9, "u": -6, "\u00b5": -6, "\u03bc": -6, "m": -3, "k": 3, "M": 6, "G": 9}
"""Powers of ten; both characters that look like the Greek mu are in use."""

KINDS = {"S": "conductance", "V": "voltage", "Ohm": "resistance", "s": "time", "K": "temperature", "F": "capacitance"}
"""What a unit measures."""

SPELLINGS = {"S": ("S",), "V": ("V",), "Ohm": ("Ohm", "ohm", "\u03a9", "\u2126"), "s": ("s",), "K": ("K",), "F": ("F",)}

UNITS: dict[str, tuple[str, Decimal]] = {
    **{
        p + s: (unit, Decimal(10) ** e) for unit, names in SPELLINGS.items() for s in names for p, e in PREFIXES.items()
    },
    "min": ("s", Decimal(60)),
    "h": ("s", Decimal(3600)),
    "day": ("s", Decimal(86400)),
    "days": ("s", Decimal(86400)),
    "%": ("1", Decimal("0.01")),
    "bit": ("bit", Decimal(1)),
    "bits": ("bit", Decimal(1)),
}
"""Spelling -> (unit of the specification, its size in that unit)."""

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?)\s*([^\W\d_]*|%)")
LONGEST = 64
"""Characters of a number with its unit."""


class QuantityError(ValueError):
    """A text that is no number with a known unit; its words say why."""


def parse_quantity(text: str, unit: str, bare: bool = False) -> float:
    """The number in ``unit``, ``"S"``, ``"V"``, ``"1"``, ... of a specification.

    Args:
        bare: whether a number without a unit is taken as one in ``unit``.

    Raises:
        QuantityError: it isn't one, or is one of another kind.
    """
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= LONGEST else None
    if match is None:
        raise QuantityError("not a number with a unit")
    number, written = match.groups()
    if not written and not bare:
        raise QuantityError("a text, not a number, and without a unit")
    kind, size = UNITS.get(written, (None, Decimal(1))) if written else (unit, Decimal(1))
    if kind is None:
        raise QuantityError(f"in {written!r}, which is no unit known here")
    if kind != unit:
        raise QuantityError(f"{_article(kind)}, not {_article(unit)}")
    try:
        return float(Decimal(number) * size)
    except (DecimalException, OverflowError) as failure:
        raise QuantityError("too large or too small a number") from failure


def example(unit: str) -> str:
    """How a value in that unit is written."""
    return {
        "S": '"40 uS"',
        "V": '"2 mV"',
        "Ohm": '"2 Ohm"',
        "s": '"100 ns"',
        "K": '"300 K"',
        "F": '"1 pF"',
        "1": '0.05 or "5 %"',
        "bit": '8 or "8 bit"',
    }.get(unit, "0.05")


def _article(unit: str) -> str:
    kinds = {**KINDS, "1": "pure number", "bit": "number of bits", "g_max": "number relative to g_max"}
    return f"a {kinds[unit]}" if unit in kinds else "what has no unit"
