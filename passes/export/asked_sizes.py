"""Which sizes a forward asks about while torch.export runs it, and which sizes the exported program holds for.

A size that may change is a symbol then, and a comparison of it an expression; Python takes one way, and the graph
knows of no other. What PyTorch asks below the user's code and its own layers says nothing of the program, whose
operations ask again when they run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import sympy
import torch
from torch import Tensor

from ..size_choices import SizeChoice
from ..torch_private import in_python
from ..tracing.patching import all_of, replaced, this_thread
from ..users_code import is_models, module_of, only_raises, place_of

_NUMBERS: tuple[tuple[type[Any], str, str], ...] = (
    (torch.SymBool, "__bool__", "{}"),
    (torch.SymBool, "__int__", "int({})"),
    (torch.SymInt, "__bool__", "({}) != 0"),
    (torch.SymInt, "__int__", "{}"),
    (torch.SymInt, "__index__", "{}"),
    (torch.SymFloat, "__bool__", "({}) != 0"),
    (torch.SymFloat, "__int__", "int({})"),
    (torch.SymFloat, "__float__", "{}"),
)
"""Where Python asks a symbol for a number, and how the question is written of its expression; torch 2.9 asks in fewer
places."""

_TEXTS: tuple[tuple[type[Any], Callable[[Any], Any]], ...] = ((torch.SymInt, int), (torch.SymFloat, float))
"""Of whose texts Python asks, and which number is written: in a text a symbol would be its own name."""


@contextmanager
def choices_noted() -> Iterator[list[SizeChoice]]:
    """While a model is exported."""
    asked: list[_Asked] = []
    result: list[SizeChoice] = []
    mine = this_thread()

    def is_heard(frame: FrameType) -> bool:
        return mine() and is_models(module_of(frame))

    def noting(plain: Callable[[Any], Any], form: str) -> Callable[[Any], Any]:
        def number(self: Any) -> Any:
            answer = plain(self)
            if is_heard(frame := sys._getframe(1)):
                asked.append((self.node, form, answer, place_of(frame), only_raises(frame)))
            return answer

        return number

    def written(plain: Callable[[Any], str], number: Callable[[Any], Any]) -> Callable[[Any], str]:
        def text(self: Any) -> str:
            if not is_heard(frame := sys._getframe(1)):
                return plain(self)
            answer = number(self)
            asked.append((self.node, "{}", answer, place_of(frame), False))
            return repr(answer)

        return text

    asking = [(kind, name, form) for kind, name, form in _NUMBERS if hasattr(kind, name)]
    numbers = [replaced(kind, name, noting(getattr(kind, name), form)) for kind, name, form in asking]
    texts = [replaced(kind, "__repr__", written(vars(kind)["__repr__"], number)) for kind, number in _TEXTS]
    with all_of([*numbers, *texts]):
        yield result
    result.extend(dict.fromkeys(_choices(asked)))


_Asked = tuple[Any, str, Any, str, bool]
"""Of which expression, how it is written, what was answered, where, and whether only for an error."""


def _choices(asked: Iterable[_Asked]) -> Iterator[SizeChoice]:
    for node, form, answer, place, only_error in asked:
        expression = _in_the_end(node)
        if symbols := frozenset(map(str, getattr(expression, "free_symbols", ()))):
            yield SizeChoice(form.format(in_python(expression)), symbols, answer, place, only_error)


def _in_the_end(node: Any) -> Any:
    """An expression in the symbols that are left: sizes turn out to be one, or numbers, after they were asked about."""
    return node.shape_env.replace(node.expr)


def sizes_of(name: str, example: Tensor) -> tuple[tuple[int | str, ...], list[SizeChoice]]:
    """The sizes of an input that an exported program holds for: numbers, and symbols of those that may change.

    Args:
        name: the input's.
        example: what torch.export ran the forward on.

    Returns:
        the sizes, and the relations of those that follow from others.
    """
    sizes: list[int | str] = []
    relations = []
    for dim, size in enumerate(example.shape):
        expression = _in_the_end(size.node) if isinstance(size, torch.SymInt) else sympy.Integer(size)
        if expression.is_number:  # which PyTorch may have found out after the symbol was made: len(x) is a number
            sizes.append(int(expression))
        elif expression.is_Symbol:
            sizes.append(in_python(expression))
        else:
            symbol = f"size_{name}_{dim}"
            sizes.append(symbol)
            symbols = frozenset((symbol, *map(str, expression.free_symbols)))
            relations.append(SizeChoice(f"{symbol} == {in_python(expression)}", symbols, True, "torch.export"))
    return tuple(sizes), relations
