"""Operations and potentials made again from their kinds and options, as a compiled model stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Generic, TypeVar

from ..ir import Operation, Options, Potential
from .option_types import OptionType, exactly

Made = TypeVar("Made", Operation, Potential)
Given = tuple[bool, ...]
"""Which of an operation's operands there are: a linear map without bias has ``(True, True, False)``."""


@dataclass(frozen=True)
class Form(Generic[Made]):
    """How one operation or potential is made from its options, by its rule and by whoever reads a stored model.

    Attributes:
        make: from options that have been checked, and which operands there are (a potential has none).
        options: the options that there must be, by name, and what each may be.
        operands: the least and the most operands of an operation.
    """

    make: Callable[[Options, Given], Made]
    options: Mapping[str, OptionType] = field(default_factory=dict)
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


Spellings = tuple[Form[Made], ...]
"""The forms of one kind: more than one where it is spelled with other options."""


def fitting(spellings: Spellings[Made], options: Options) -> Form[Made]:
    """The form with these options, or the first, which will say what is wrong with them."""
    return next((s for s in spellings if s.options.keys() == options.keys()), spellings[0])


def constant(potential: Potential) -> Spellings[Potential]:
    """A potential without choices: its options are its own, to the digit."""
    return (Form(lambda options, given: potential, {k: exactly(v) for k, v in potential.options.items()}),)


def parametric(make: Callable[..., Potential], **options: OptionType) -> Spellings[Potential]:
    """A potential that is made from its options, given by name."""
    return (Form(lambda chosen, given: make(**chosen), options),)


def plain(operation: Operation, operands: tuple[int, int] = (1, 1)) -> Spellings[Operation]:
    """An operation without options."""
    return (Form(lambda options, given: operation, {}, operands),)


def same(one: object, other: object) -> bool:
    """Whether two operations or potentials compute the same: equal data, functions of one code and equal constants."""
    if isinstance(one, (Operation, Potential)) and type(one) is type(other):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, partial) and isinstance(other, partial):
        return (
            same(one.func, other.func) and same_all(one.args, other.args) and same_options(one.keywords, other.keywords)
        )
    if isinstance(one, MethodType) and isinstance(other, MethodType):
        return one.__func__ is other.__func__ and one.__self__ == other.__self__
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
