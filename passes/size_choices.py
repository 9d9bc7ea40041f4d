"""What a forward asks of sizes while torch.export runs it: the program holds for calls of which the answers are the same.

    if x.shape[0] > 4: ...        SizeChoice("x.shape[0] > 4", False, "net.py:12")

A size that may change is a symbol then, and a comparison of it an expression; Python takes one way, and the graph knows of no other.
What PyTorch asks below the user's code and its own layers says nothing of the program, whose operations ask again when they run.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.utils._sympy.printers import PythonPrinter

from .patching import replaced, this_thread
from .users_code import is_models, module_of, place_of

_WORDS = {"math": math, "min": min, "max": max, "abs": abs}
"""What a question may be written with."""


@dataclass(frozen=True)
class SizeChoice:
    """One answer.

    Attributes:
        question: in Python, of symbols of sizes.
        symbols: those that it is of.
        answer: whether it was so.
        place: where it is asked.
    """

    question: str
    symbols: frozenset[str]
    answer: bool
    place: str

    def is_of(self, symbols: Collection[str]) -> bool:
        """Whether it can be asked of these symbols."""
        return self.symbols.issubset(symbols)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether the answer is the same for these sizes."""
        return bool(eval(self.question, {"__builtins__": _WORDS}, dict(sizes))) == self.answer

    def in_words(self, names: Mapping[str, str]) -> str:
        """The question, with the sizes as the user writes them."""
        text = self.question
        for symbol in self.symbols:
            text = re.sub(rf"\b{symbol}\b", names[symbol], text)
        return text


@contextmanager
def choices_noted() -> Iterator[list[SizeChoice]]:
    """While a model is exported."""
    asked: list[tuple[Any, bool, str]] = []
    result: list[SizeChoice] = []
    mine = this_thread()

    def noting(kind: type[Any]) -> Any:
        plain = kind.__bool__

        def __bool__(self: Any) -> bool:  # noqa: N807 -- it takes its place
            answer: bool = plain(self)
            frame = sys._getframe(1)
            if mine() and is_models(module_of(frame)):
                asked.append((self.node, answer, place_of(frame)))
            return answer

        return __bool__

    with (
        replaced(torch.SymBool, "__bool__", noting(torch.SymBool)),
        replaced(torch.SymInt, "__bool__", noting(torch.SymInt)),
    ):
        yield result
    result.extend(dict.fromkeys(_choices(asked)))


def _choices(asked: Iterable[tuple[Any, bool, str]]) -> Iterator[SizeChoice]:
    for node, answer, place in asked:
        expression = _in_the_end(node)
        if symbols := frozenset(map(str, getattr(expression, "free_symbols", ()))):
            yield SizeChoice(PythonPrinter().doprint(expression), symbols, answer, place)


def _in_the_end(node: Any) -> Any:
    """An expression in the symbols that are left: sizes turn out to be one, or numbers, after they were asked about."""
    return node.shape_env.replace(node.expr)


@dataclass(frozen=True)
class Shape:
    """The sizes of an input that an exported program holds for.

    Attributes:
        sizes: numbers, and symbols of those that may change.
        relations: of those that follow from others.
    """

    sizes: tuple[int | str, ...]
    relations: tuple[SizeChoice, ...]

    @staticmethod
    def of(name: str, example: Tensor) -> Shape:
        """``name`` is the input's."""
        sizes: list[int | str] = []
        relations = []
        for dim, size in enumerate(example.shape):
            expression = _in_the_end(size.node) if isinstance(size, torch.SymInt) else sympy.Integer(size)
            if expression.is_number:  # which PyTorch may have found out after the symbol was made: len(x) is a number
                sizes.append(int(expression))
                continue
            text = PythonPrinter().doprint(expression)
            sizes.append(text if expression.is_Symbol else f"size_{name}_{dim}")
            if not expression.is_Symbol:
                symbols = frozenset((str(sizes[-1]), *map(str, expression.free_symbols)))
                relations.append(SizeChoice(f"{sizes[-1]} == {text}", symbols, True, "torch.export"))
        return Shape(tuple(sizes), tuple(relations))
