"""Operations and potentials made again from their names and options, as a compiled model stores them.

What a :class:`Remake` takes is what its rule once read: options of known names, each of a :class:`Kind` with bounds, since the
document that they come from may be anyone's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import FunctionType, MappingProxyType
from typing import Any, Generic, TypeVar

from ..ir import Operation, Potential

Made = TypeVar("Made", Operation, Potential)
Options = Mapping[str, Any]
Given = tuple[bool, ...]
"""Which of an operation's operands there are: a linear map without bias has ``(True, True, False)``."""

LARGEST_SIZE, MOST_DIMENSIONS = 1 << 20, 16
"""No window, padding or number of groups is larger; no tensor has more dimensions."""


@dataclass(frozen=True)
class Kind:
    """What an option's value may be.

    Attributes:
        text: in words: ``"a number"``.
        holds: whether a value is one.
    """

    text: str
    holds: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and not math.isnan(value))


def _whole(lowest: int, highest: int) -> Callable[[Any], bool]:
    return lambda value: _is_int(value) and lowest <= value <= highest


def optional(kind: Kind) -> Kind:
    return Kind(f"{kind.text}, or none", lambda value: value is None or kind.holds(value))


def several(kind: Kind) -> Kind:
    """A tuple of such values, one a dimension."""
    return Kind(
        f"a list of at most {MOST_DIMENSIONS}, each {kind.text}",
        lambda value: isinstance(value, tuple) and len(value) <= MOST_DIMENSIONS and all(map(kind.holds, value)),
    )


def either(*kinds: Kind) -> Kind:
    return Kind(", or ".join(k.text for k in kinds), lambda value: any(k.holds(value) for k in kinds))


def one_of(*words: str) -> Kind:
    return Kind("one of " + ", ".join(words), lambda value: isinstance(value, str) and value in words)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
REAL = Kind("a number, perhaps infinite", _is_real)
NUMBER = Kind("a finite number", lambda value: _is_real(value) and math.isfinite(value))
POSITIVE = Kind("a positive number", lambda value: NUMBER.holds(value) and value > 0)
DIMENSION = Kind("a dimension", _whole(-MOST_DIMENSIONS, MOST_DIMENSIONS))
OWN_DIMENSION = Kind(
    "a dimension other than the batch", lambda value: DIMENSION.holds(value) and value != 0
)  # a negative one may be the batch too, which the shapes tell
SIZE = Kind(f"a whole number up to {LARGEST_SIZE}", _whole(0, LARGEST_SIZE))
COUNT = Kind(f"a whole number from 1 to {LARGEST_SIZE}", _whole(1, LARGEST_SIZE))
OFFSET = Kind(f"a whole number up to {LARGEST_SIZE} either way", _whole(-LARGEST_SIZE, LARGEST_SIZE))
SHAPE = several(optional(Kind(f"a size up to {LARGEST_SIZE}, or -1", _whole(-1, LARGEST_SIZE))))
SIZES, COUNTS = either(SIZE, several(SIZE)), either(COUNT, several(COUNT))
DIMENSIONS = either(DIMENSION, several(DIMENSION))


@dataclass(frozen=True)
class Remake(Generic[Made]):
    """How one operation or potential is made again.

    Attributes:
        make: from options that have been checked, and which operands there are (a potential has none).
        options: the options that there must be, by name, and what each may be.
        operands: the least and the most operands of an operation.
    """

    make: Callable[[Options, Given], Made]
    options: Mapping[str, Kind] = field(default_factory=dict)
    operands: tuple[int, int] = (1, 1)

    def problems(self, options: Options, given: Sequence[bool] | None = None) -> Iterator[str]:
        """What is wrong with the options and the number of operands."""
        for name in [n for n in self.options if n not in options]:
            yield f"has no option {name}"
        for name, value in options.items():
            if name not in self.options:
                yield f"has an option {name}, which it does not know"
            elif not self.options[name].holds(value):
                yield f"has {name} = {value!r}, which is not {self.options[name].text}"
        least, most = self.operands
        if given is not None and not least <= len(given) <= most:
            yield f"reads {len(given)} operands instead of {least if least == most else f'{least} to {most}'}"

    def __call__(self, options: Options, given: Given = ()) -> Made:
        return self.make(options, given)


OperationRemakes = Mapping[str, tuple[Remake[Operation], ...]]
"""By name; more than one where an operation is spelled with other options."""
PotentialRemakes = Mapping[str, tuple[Remake[Potential], ...]]


@dataclass(frozen=True)
class Remakes:
    """Every operation and potential that can be made again."""

    operations: OperationRemakes
    potentials: PotentialRemakes

    def extended(
        self, operations: OperationRemakes = MappingProxyType({}), potentials: PotentialRemakes = MappingProxyType({})
    ) -> Remakes:
        """These and a user's own, which win over a built-in one of the same name."""
        return Remakes({**self.operations, **operations}, {**self.potentials, **potentials})


def fitting(spellings: tuple[Remake[Made], ...], options: Options) -> Remake[Made]:
    """The spelling with these options, or the first, which will say what is wrong with them."""
    return next((s for s in spellings if s.options.keys() == options.keys()), spellings[0])


def exactly(potential: Potential) -> tuple[Remake[Potential], ...]:
    """A potential without choices: its options are its own, to the digit."""

    def only(value: Any) -> Kind:
        return Kind(repr(value), lambda v: type(v) is type(value) and v == value)

    return (Remake(lambda options, given: potential, {k: only(v) for k, v in potential.options.items()}),)


def of(make: Callable[[Options], Potential], **options: Kind) -> tuple[Remake[Potential], ...]:
    """A potential that is made from its options."""
    return (Remake(lambda chosen, given: make(chosen), options),)


def plain(operation: Operation, operands: tuple[int, int] = (1, 1)) -> tuple[Remake[Operation], ...]:
    """An operation without options."""
    return (Remake(lambda options, given: operation, {}, operands),)


def same(one: object, other: object) -> bool:
    """Whether two operations or potentials compute the same: equal data, and functions of one code with the same constants."""
    if isinstance(one, (Operation, Potential)) and type(one) is type(other):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, partial) and isinstance(other, partial):
        return (
            same(one.func, other.func) and same_all(one.args, other.args) and same_options(one.keywords, other.keywords)
        )
    if isinstance(one, FunctionType) and isinstance(other, FunctionType) and one is not other:
        return one.__code__ is other.__code__ and same_all(_closed_over(one), _closed_over(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return same_options(one, other)
    return one is other or (not callable(one) and one == other)


def same_all(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


def same_options(one: Options, other: Options) -> bool:
    return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())


def _closed_over(function: FunctionType) -> list[Any]:
    return [cell.cell_contents for cell in function.__closure__ or ()]
