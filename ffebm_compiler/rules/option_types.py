"""What the value of an option may be: with bounds, since the document that it comes from may be anyone's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

LARGEST_SIZE, MOST_DIMENSIONS = 1 << 20, 16
"""No window, padding or number of groups is larger; no tensor has more dimensions."""


REQUIRED = object()
"""The default of an option that a call must give."""


@dataclass(frozen=True)
class OptionType:
    """What an option's value may be.

    Attributes:
        text: in words: ``"a number"``.
        holds: whether a value is one.
        default: what it is where a call does not say.
    """

    text: str
    holds: Callable[[Any], bool]
    default: Any = REQUIRED

    def by_default(self, value: Any) -> OptionType:
        return replace(self, default=value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and not math.isnan(value))


def _whole(lowest: int, highest: int) -> Callable[[Any], bool]:
    return lambda value: _is_int(value) and lowest <= value <= highest


def optional(type_: OptionType) -> OptionType:
    return OptionType(f"{type_.text}, or none", lambda value: value is None or type_.holds(value))


def several(type_: OptionType) -> OptionType:
    """A tuple of such values, one a dimension."""
    return OptionType(
        f"a list of at most {MOST_DIMENSIONS}, each {type_.text}",
        lambda value: isinstance(value, tuple) and len(value) <= MOST_DIMENSIONS and all(map(type_.holds, value)),
    )


def either(*types: OptionType) -> OptionType:
    return OptionType(", or ".join(t.text for t in types), lambda value: any(t.holds(value) for t in types))


def one_of(*words: str) -> OptionType:
    return OptionType("one of " + ", ".join(words), lambda value: isinstance(value, str) and value in words)


def exactly(value: Any) -> OptionType:
    """That value and no other, of its own type."""
    return OptionType(repr(value), lambda other: type(other) is type(value) and other == value)


FLAG = OptionType("true or false", lambda value: isinstance(value, bool))
REAL = OptionType("a number, perhaps infinite", _is_real)
NUMBER = OptionType("a finite number", lambda value: _is_real(value) and math.isfinite(value))
POSITIVE = OptionType("a positive number", lambda value: NUMBER.holds(value) and value > 0)
DIMENSION = OptionType("a dimension", _whole(-MOST_DIMENSIONS, MOST_DIMENSIONS))
OWN_DIMENSION = OptionType(
    "a dimension other than the batch", lambda value: DIMENSION.holds(value) and value != 0
)  # a negative one may be the batch too, which the shapes tell
SIZE = OptionType(f"a whole number up to {LARGEST_SIZE}", _whole(0, LARGEST_SIZE))
COUNT = OptionType(f"a whole number from 1 to {LARGEST_SIZE}", _whole(1, LARGEST_SIZE))
OFFSET = OptionType(f"a whole number up to {LARGEST_SIZE} either way", _whole(-LARGEST_SIZE, LARGEST_SIZE))
SHAPE = several(optional(OptionType(f"a size up to {LARGEST_SIZE}, or -1", _whole(-1, LARGEST_SIZE))))
SIZES, COUNTS = either(SIZE, several(SIZE)), either(COUNT, several(COUNT))
DIMENSIONS = either(DIMENSION, several(DIMENSION))
