"""Lists and dicts that a forward is given, and may write into: the caller would see it, and no graph returns it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import Problem
from .loses_meaning import LosesMeaning
from .users_code import users_place


class GivenContainers:
    """The containers in a forward's arguments, and what they held."""

    def __init__(self, arguments: Any, model: str):
        self.model = model
        self.before = [(c, list(_items(c))) for c in _containers(arguments)]

    def check(self) -> None:
        """Whether they hold the same things.

        Raises:
            LosesMeaning: one does not.
        """
        for container, before in self.before:
            now = list(_items(container))
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                kind = type(container).__name__
                problem = Problem(
                    users_place() or f"model {self.model}",
                    f"the forward of {self.model} writes into a {kind} among its arguments, which is the caller's",
                    'Return what it computes instead; digital=[""] calls the whole model as it is.',
                )
                raise LosesMeaning(problem)


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, dict, set)):
        yield value
    if isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _containers(each)


def _items(container: Any) -> Iterator[Any]:
    return iter([*container.keys(), *container.values()] if isinstance(container, dict) else container)
