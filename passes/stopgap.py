"""What stands, while a model is traced, in the place of state that a module called as a whole writes: whoever uses it is found out.

Its value at the time of tracing says nothing about its value in a call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import Problem
from .loses_meaning import LosesMeaning
from .running_modules import caller_of, paths_of, running
from .state import Owned
from .users_code import is_users, place_of

_USES = (
    "__add__", "__and__", "__bool__", "__call__", "__contains__", "__delitem__", "__eq__", "__float__",
    "__floordiv__", "__format__", "__ge__", "__getitem__", "__gt__", "__iadd__", "__iand__", "__imul__",
    "__index__", "__int__", "__invert__", "__ior__", "__isub__", "__iter__", "__itruediv__", "__le__", "__len__",
    "__lt__", "__matmul__", "__mod__", "__mul__", "__ne__", "__neg__", "__next__", "__or__", "__pos__", "__pow__",
    "__radd__", "__rand__", "__reversed__", "__rfloordiv__", "__rmatmul__", "__rmul__", "__ror__", "__rpow__",
    "__rsub__", "__rtruediv__", "__setitem__", "__str__", "__sub__", "__truediv__", "__torch_function__",
    "__fx_create_arg__",
)  # fmt: skip


class Stopgap:
    """Raises wherever it is used."""

    def __init__(self, owned: Owned, network: nn.Module):
        self.__dict__.update(_owned=owned, _network=network)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copies and the like look for methods
            raise AttributeError(name)
        raise _refusal(self)

    __hash__ = object.__hash__


def _use(self: Stopgap, *args: Any, **kwargs: Any) -> Any:
    raise _refusal(self)


for _name in _USES:
    setattr(Stopgap, _name, _use)


def _refusal(stopgap: Stopgap) -> LosesMeaning:
    owned, network = stopgap.__dict__["_owned"], stopgap.__dict__["_network"]
    frame = sys._getframe(2)
    while frame.f_back is not None and not is_users(frame):
        frame = frame.f_back
    path = caller_of(running(frame, paths_of(network)), [owned])
    problem = Problem(
        f"{owned} of layer {owned.path}, at {place_of(frame)}",
        "is read here, where it is traced, and written by a forward that is called as a whole",
        "Return the value from that forward, or keep the module that contains both out with digital=[...] (its name).",
    )
    return LosesMeaning(problem, path)


@contextmanager
def held_back(hidden: Iterable[Owned], network: nn.Module) -> Iterator[None]:
    """Puts stopgaps in the place of attributes that are no registered tensors, and afterwards their values again."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    for owned in hidden:
        space = vars(network.get_submodule(owned.path or ""))
        if not any(owned.name in space[r] for r in ("_parameters", "_buffers", "_modules")):
            before.append((space, owned.name, space.get(owned.name, before)))
            space[owned.name] = Stopgap(owned, network)
    try:
        yield
    finally:
        for space, name, value in before:
            space.pop(name, None)
            if value is not before:
                space[name] = value
