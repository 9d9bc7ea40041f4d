"""Which line of a forward changes a model's state: the state is looked at after every line of the user's.

That is slow, and done only for what has changed already once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch import nn

from .running_modules import paths_of, running
from .state import Holder, Owned
from .users_code import is_users, place_of


@dataclass(frozen=True)
class Written:
    """One change of state.

    Attributes:
        owned: what has changed.
        place: ``"file.py:12"``.
        stack: the modules that were running, the innermost first.
    """

    owned: frozenset[Owned]
    place: str
    stack: tuple[str, ...]


@dataclass
class _Watch:
    """Python's hook for every line that is run."""

    holders: list[Holder]
    paths: Mapping[int, str]
    found: list[Written] = field(default_factory=list)
    last: tuple[FrameType, int] | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not is_users(frame):
            return None
        self.look()
        running = frame.f_back if event == "return" else frame  # the caller goes on with its line
        self.last = None if running is None else (running, running.f_lineno)
        return self

    def look(self) -> None:
        """The line that ran last has made every change that is new."""
        if self.last is None:
            return
        changed = [(h, owned) for h in self.holders if (owned := h.changes())]
        for holder, owned in changed:
            self.holders.remove(holder)
            frame, line = self.last
            place = f"{place_of(frame).rpartition(':')[0]}:{line}"
            self.found.append(Written(frozenset(owned), place, tuple(running(frame, self.paths))))


@contextmanager
def watched(holders: list[Holder], network: nn.Module) -> Iterator[list[Written]]:
    """Notes the first line that changes each holder."""
    watch, before = _Watch(holders, paths_of(network)), sys.gettrace()
    sys.settrace(watch)
    try:
        yield watch.found
    finally:
        sys.settrace(before)
        watch.look()
