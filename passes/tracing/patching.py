"""What is replaced in PyTorch and in the user's files while a model is traced, and put back whatever happens.

It is replaced for the whole process, by one conversion at a time. Other threads go on calling models meanwhile, and for
them everything does as ever: :func:`replaced_here` replaces a function for this thread alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any


def this_thread() -> Callable[[], bool]:
    """Whether one is still in the thread that asked for this."""
    mine, current = threading.get_ident(), threading.get_ident
    return lambda: current() == mine


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute, or of a name of a file, for a while; afterwards the one before, or none."""
    in_file = isinstance(owner, dict)
    space = owner if in_file else vars(owner)
    had, before = name in space, space.get(name)
    _set(owner, name, value)
    try:
        yield
    finally:
        if in_file and space.get(name) is not value:
            pass  # bound anew meanwhile: importing torch._dynamo wraps what it finds there
        elif had:
            _set(owner, name, before)
        elif in_file:
            del space[name]
        else:
            delattr(owner, name)


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    else:
        setattr(owner, name, value)


def replaced_here(
    owner: Any, name: str, other: Callable[[Callable[..., Any]], Callable[..., Any]], static: bool = False
) -> AbstractContextManager[None]:
    """A function replaced for this thread alone: by what ``other`` makes of it, as it is now.

    Args:
        static: whether it is to be a static method.
    """
    plain, mine = getattr(owner, name), this_thread()
    here = other(plain)

    def call(*args: Any, **kwargs: Any) -> Any:
        return (here if mine() else plain)(*args, **kwargs)

    return replaced(owner, name, staticmethod(call) if static else call)


@contextmanager
def all_of(contexts: Iterable[AbstractContextManager[Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def replaced_everywhere(
    spaces: Iterable[dict[str, Any]], others: Mapping[Callable[..., Any], Callable[..., Any]]
) -> AbstractContextManager[None]:
    """Other functions in the place of some, under whatever names the spaces have them."""
    by_identity = {id(function): other for function, other in others.items()}
    here = [(space, name) for space in spaces for name, value in space.items() if id(value) in by_identity]
    return all_of([replaced(space, name, by_identity[id(space[name])]) for space, name in here])
