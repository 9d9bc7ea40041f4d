"""Which line of a forward changes a model's state, and which reads state that is not to be read.

What holds state is looked at after every line of the user's. That is slow, and done only for what has changed once
already. State that a module called as a whole writes has a value while the model is traced that says nothing about
its value in a call: a placeholder stands in its place, and whoever uses that is found out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch import nn

from ...errors import Problem
from ..refusals import LosesMeaning
from ..torch_private import REGISTRIES
from ..users_code import decided_by, frames_from, is_users, place_of, places_from, running_modules
from .patching import all_of, replaced
from .state import Holder, Owned, holder_of


@dataclass(frozen=True)
class Written:
    """One change of state.

    Attributes:
        owned: what has changed.
        place: ``"file.py:12"``.
        stack: the modules that were running, the innermost first.
        options: a sentence with the options that decide that the line runs.
    """

    owned: frozenset[Owned]
    place: str
    stack: tuple[str, ...]
    options: str = ""


@dataclass
class _Watch:
    """Python's hook for every line that is run."""

    holders: list[Holder]
    network: nn.Module
    hears: Callable[[FrameType], bool]
    writes: list[Written] = field(default_factory=list)
    last: tuple[FrameType, int] | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self.hears(frame):
            return None
        self.look()
        running = frame.f_back if event == "return" else frame  # the caller goes on with its line
        self.last = None if running is None else (running, running.f_lineno)
        return self

    def look(self) -> None:
        """The line that ran last has made every change that is new."""
        if self.last is None:
            return
        for i, holder in enumerate(self.holders):
            if owned := holder.changes():
                self.holders[i] = Holder.of(holder.value, *holder.owners)
                self.writes.append(self.written(owned, *self.last))

    def written(self, owned: set[Owned], frame: FrameType, line: int) -> Written:
        places = [(frame, line), *places_from(frame.f_back)]
        stack = tuple(running_modules(frame, self.network))
        return Written(frozenset(owned), place_of(frame, line), stack, decided_by(places))


@contextmanager
def watched(
    holders: list[Holder], network: nn.Module, hears: Callable[[FrameType], bool] = is_users
) -> Iterator[list[Written]]:
    """Notes the lines that change each holder, of the code that is heard."""
    watch, before = _Watch(holders, network, hears), sys.gettrace()
    sys.settrace(watch)
    try:
        yield watch.writes
    finally:
        sys.settrace(before)
        watch.look()


# --- reads ------------------------------------------------------------------------------------------------

_USES = (
    "__add__", "__and__", "__bool__", "__call__", "__contains__", "__delitem__", "__eq__", "__float__",
    "__floordiv__", "__format__", "__ge__", "__getitem__", "__gt__", "__iadd__", "__iand__", "__imul__",
    "__index__", "__int__", "__invert__", "__ior__", "__isub__", "__iter__", "__itruediv__", "__le__", "__len__",
    "__lt__", "__matmul__", "__mod__", "__mul__", "__ne__", "__neg__", "__next__", "__or__", "__pos__", "__pow__",
    "__radd__", "__rand__", "__reversed__", "__rfloordiv__", "__rmatmul__", "__rmul__", "__ror__", "__rpow__",
    "__rsub__", "__rtruediv__", "__setitem__", "__str__", "__sub__", "__truediv__", "__torch_function__",
    "__fx_create_arg__",
)  # fmt: skip


class Unreadable:
    """Stands in the place of state, and raises wherever it is used."""

    def __init__(self, owned: Owned, network: nn.Module):
        self.__dict__.update(_owned=owned, _network=network)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copies and the like look for methods
            raise AttributeError(name)
        raise _refusal(self)

    __hash__ = object.__hash__


def _use(self: Unreadable, *args: Any, **kwargs: Any) -> Any:
    raise _refusal(self)


for _name in _USES:
    setattr(Unreadable, _name, _use)


def _refusal(state: Unreadable) -> LosesMeaning:
    owned, network = state.__dict__["_owned"], state.__dict__["_network"]
    frame = next((f for f in frames_from(sys._getframe(2)) if is_users(f)), None)
    problem = Problem(
        f"{owned} of layer {owned.path}, at {place_of(frame)}",
        "is read here, where it is traced, and written by a forward that is called as a whole",
        "Return the value from that forward, or keep the module that contains both out with digital=[...] (its name).",
    )
    return LosesMeaning(problem, holder_of(running_modules(frame, network), [owned]))


def held_back(hidden: Iterable[Owned], network: nn.Module) -> AbstractContextManager[None]:
    """Hides attributes that are no registered tensors, for a while."""
    spaces = [(vars(network.get_submodule(owned.path or "")), owned) for owned in hidden]
    return all_of(
        [
            replaced(space, owned.name, Unreadable(owned, network))
            for space, owned in spaces
            if not any(owned.name in space[r] for r in REGISTRIES)
        ]
    )
