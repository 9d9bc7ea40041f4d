"""What is replaced in PyTorch and in the user's files while a model is traced: for this thread alone, and put back whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TRACING = threading.RLock()
"""Held by a conversion: what it replaces, it replaces for the whole process, and only one may do that at a time.

Other threads go on calling models meanwhile; every replacement asks :func:`this_thread` and does as ever for them.
"""


def this_thread() -> Callable[[], bool]:
    """Whether one is still in the thread that asked for this."""
    mine, current = threading.get_ident(), threading.get_ident
    return lambda: current() == mine


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute, for a while; afterwards the owner has its own again, or none, as before."""
    space = vars(owner)
    had, before = name in space, space.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def replaced_in(space: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """Likewise in the names of a file."""
    had, before = name in space, space.get(name)
    space[name] = value
    try:
        yield
    finally:
        if had:
            space[name] = before
        else:
            space.pop(name, None)
