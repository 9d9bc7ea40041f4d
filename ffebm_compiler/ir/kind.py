"""What an operation or a potential is: a *kind*, told by the object itself and never by its name.

A kind is made beside the rule that reads it. Crossbars, netlists and costs have one table each, keyed by kinds; a
kind may bring its own entry for a table that lacks it. Two kinds of one name are two kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from ..errors import PickleError, Problem
from .portable import Plain

Options = Mapping[str, Any]
"""The constants of an operation or a potential, by name."""
Expression = Callable[[str, Options], str]
"""Of a potential: sigma of the SPICE expression ``a``, as an expression."""


@dataclass(frozen=True)
class Array:
    """How the weight of an operation lies on a crossbar, ``y_j = sum_i x_i M_ij``.

    Attributes:
        matrix: of the weight, ``(groups, rows, columns)``.
        weight: of the matrix, in the weight's shape: the inverse.
        options: names of those that both depend on, all of them whole numbers.
    """

    matrix: Callable[[Tensor, Options], Tensor]
    weight: Callable[[Tensor, tuple[int, ...], Options], Tensor]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Kind(Plain):
    """A kind of operation or potential, compared by identity; pickled as the object of its name in its module.

    Attributes:
        name: in reports, and in the files of bundles and chips.
        module: ``__name__`` of the module that it is made in.
        expression: of a potential that SPICE can compute: its activation.
        array: of an operation whose weight a crossbar can hold.
        magnitude: of an operation that resistors can make: ``(operation, operands)``, its value where every
            constant has its magnitude.
    """

    name: str
    module: str
    expression: Expression | None = None
    array: Array | None = None
    magnitude: Callable[..., Any] | None = None

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if _kind(self.module, self.name) is not self:
            raise PickleError(
                Problem(
                    f"kind {self.name!r} of {self.module}",
                    "can't be pickled: another process finds a kind by its name at the top of its module",
                    f"Write {self.name.upper()} = Kind({self.name!r}, __name__) at the top of the module of its rule.",
                )
            )
        return _kind, (self.module, self.name)


def _kind(module: str, name: str) -> Kind | None:
    return next((k for v in [*vars(import_module(module)).values()] for k in _kinds_in(v) if k.name == name), None)


def _kinds_in(value: Any) -> Iterator[Kind]:
    """Of a value at the top of a module: a kind, a table of kinds, or a potential or operation with its kind."""
    if isinstance(value, Kind):
        yield value
    elif isinstance(value, dict):
        yield from (k for k in value.values() if isinstance(k, Kind))
    elif isinstance(value, Plain) and isinstance(kind := getattr(value, "kind", None), Kind):
        yield kind


OTHER = Kind("other", __name__)
"""Of what is of no kind that a table could have: an operation of a user's rule that gives it none."""
