"""What a forward asked of sizes while it was traced: a program of torch.export holds where the answers are the same.

if x.shape[0] > 4: ...        SizeChoice("x.shape[0] > 4", False, "net.py:12")
h[: int(x.shape[0] / 2)]      SizeChoice("int(x.shape[0] / 2)", 1, "net.py:13")
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

_WORDS = {"math": math, "min": min, "max": max, "abs": abs, "int": int, "float": float, "torch": torch}
"""What a question may be written with."""


@dataclass(frozen=True)
class SizeChoice:
    """One answer.

    Attributes:
        question: in Python, of symbols of sizes.
        symbols: those that it is of.
        answer: whether it was so, or the number that it was.
        place: where it is asked.
        only_raises: whether nothing but an error happens where it is so.
    """

    question: str
    symbols: frozenset[str]
    answer: bool | int | float
    place: str
    only_raises: bool = False

    def is_of(self, symbols: Collection[str]) -> bool:
        """Whether it can be asked of these symbols."""
        return self.symbols.issubset(symbols)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether the answer is the same for these sizes."""
        answer = eval(self.question, {"__builtins__": _WORDS}, dict(sizes))
        return math.isclose(answer, self.answer, rel_tol=1e-12)

    def in_words(self, names: Mapping[str, str]) -> str:
        """The question, with the sizes as the user writes them."""
        text = self.question
        for symbol in self.symbols:
            text = re.sub(rf"\b{symbol}\b", names[symbol], text)
        return text
