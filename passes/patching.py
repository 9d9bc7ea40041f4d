"""What is replaced in PyTorch and in the user's files while a model is traced: for this thread alone, and put back whatever happens.

It is replaced for the whole process, by one conversion at a time. Other threads go on calling models meanwhile: every replacement
asks :func:`this_thread`, and does as ever for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any


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
        if space.get(name) is not value:
            pass  # bound anew meanwhile: importing torch._dynamo wraps what it finds there
        elif had:
            space[name] = before
        else:
            del space[name]


@contextmanager
def replaced_everywhere(
    spaces: Iterable[dict[str, Any]], others: Mapping[Callable[..., Any], Callable[..., Any]]
) -> Iterator[None]:
    """Other functions in the place of some, under whatever names the spaces have them."""
    by_identity = {id(function): other for function, other in others.items()}
    with ExitStack() as stack:
        for space in spaces:
            for name, value in list(space.items()):
                if id(value) in by_identity:
                    stack.enter_context(replaced_in(space, name, by_identity[id(value)]))
        yield
