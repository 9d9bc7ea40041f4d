"""A user's ``torch.autograd.Function`` while a model is traced: one call, since traced through it would lose its
own backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx

from .patching import replaced, this_thread


@contextmanager
def functions_as_whole() -> Iterator[None]:
    """Each ``torch.autograd.Function`` of the user's becomes one call: traced through, it would lose its backward."""
    functions = list(dict.fromkeys(_own_functions()))
    recorded = [_recorded(f) for f in functions]  # before any is replaced: others inherit from it
    with ExitStack() as stack:
        for function, forward in zip(functions, recorded, strict=True):
            stack.enter_context(replaced(function, "forward", staticmethod(forward)))
            if _has_own_context(function):
                stack.enter_context(replaced(function, "setup_context", staticmethod(_without_context(function))))
        yield


@contextmanager
def functions_met() -> Iterator[set[str]]:
    """The names of the user's functions that are called."""
    met: set[str] = set()
    functions = list(dict.fromkeys(_own_functions()))
    noted = [_noted(f, met) for f in functions]
    with ExitStack() as stack:
        for function, forward in zip(functions, noted, strict=True):
            stack.enter_context(replaced(function, "forward", staticmethod(forward)))
        yield met


def _without_context(function: type[Any]) -> Callable[..., None]:
    """A call that is recorded has nothing to keep for its backward."""
    mine, plain = this_thread(), function.setup_context

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if not mine():
            plain(ctx, inputs, output)

    return setup_context


def _noted(function: type[Any], met: set[str]) -> Callable[..., Any]:
    mine, plain = this_thread(), function.forward

    def forward(*args: Any) -> Any:
        if mine():
            met.add(function.__qualname__)
        return plain(*args)

    return forward


def _has_own_context(function: type[Any]) -> bool:
    return function.setup_context is not torch.autograd.Function.setup_context


def _own_functions(root: type[Any] = torch.autograd.Function) -> Iterator[type[Any]]:
    for function in root.__subclasses__():
        if not function.__module__.startswith("torch."):
            yield function
        yield from _own_functions(function)


class FunctionCall:
    """A call of a ``torch.autograd.Function`` of the user's, under its name."""

    def __init__(self, function: type[Any]):
        self.function = function
        self.__name__, self.__module__ = function.__name__, function.__module__
        self.__qualname__ = f"{function.__qualname__}.apply"

    def __call__(self, *args: Any) -> Any:
        return self.function.apply(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function,)


def _recorded(function: type[Any]) -> Callable[..., Any]:
    """What stands in for its forward while a model is traced."""
    plain, takes_context = function.forward, not _has_own_context(function)

    def forward(*args: Any) -> Any:
        given = args[1:] if takes_context else args
        proxies = [a for a in given if isinstance(a, fx.Proxy)]
        if not proxies:
            return plain(*args)
        return proxies[0].tracer.create_proxy("call_function", FunctionCall(function), given, {})

    return forward
