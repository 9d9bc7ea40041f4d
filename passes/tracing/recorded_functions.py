"""Functions that become one call of the graph while a model is traced, where they are given values of the graph.

A user's ``torch.autograd.Function``, traced through, would lose its own backward. Functions of Python's ``math`` take
numbers, such as sizes, and not what stands for one; torch.fx records them too, but in whichever thread calls a module
meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import fx, nn

from ..users_code import spaces_of
from .patching import all_of, replaced_everywhere, replaced_here, this_thread


def numbers_recorded(network: nn.Module) -> AbstractContextManager[None]:
    """While a network is traced."""
    functions = [f for name, f in vars(math).items() if callable(f) and not name.startswith("_")]
    return replaced_everywhere([vars(math), *spaces_of(network)], {f: _recorded_number(f) for f in functions})


def _recorded_number(function: Callable[..., Any]) -> Callable[..., Any]:
    mine = this_thread()

    def record(*given: Any, **named: Any) -> Any:
        proxies = [g for g in (*given, *named.values()) if isinstance(g, fx.Proxy)] if mine() else []
        if proxies:
            return proxies[0].tracer.create_proxy("call_function", function, given, named)
        return function(*given, **named)

    return record


# --- autograd functions -----------------------------------------------------------------------------------


def functions_as_whole() -> AbstractContextManager[None]:
    """Each ``torch.autograd.Function`` of the user's becomes one call."""
    functions = _own_functions()
    forwards = [replaced_here(f, "forward", _recorded(f), static=True) for f in functions]
    contexts = [
        replaced_here(f, "setup_context", lambda plain: lambda ctx, inputs, output: None, static=True)
        for f in functions
        if _has_own_context(f)  # a call that is recorded has nothing to keep for its backward
    ]
    return all_of([*forwards, *contexts])


@contextmanager
def functions_met() -> Iterator[set[str]]:
    """The names of the user's functions that are called."""
    met: set[str] = set()

    def noted(function: type[Any]) -> Callable[..., Any]:
        def other(plain: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args: met.add(function.__qualname__) or plain(*args)  # type: ignore[func-returns-value]

        return other

    with all_of([replaced_here(f, "forward", noted(f), static=True) for f in _own_functions()]):
        yield met


def _recorded(function: type[Any]) -> Callable[..., Any]:
    """What stands in for its forward while a model is traced."""
    takes_context = not _has_own_context(function)

    def other(plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any) -> Any:
            given = args[1:] if takes_context else args
            proxies = [a for a in given if isinstance(a, fx.Proxy)]
            if not proxies:
                return plain(*args)
            return proxies[0].tracer.create_proxy("call_function", FunctionCall(function), given, {})

        return forward

    return other


def _has_own_context(function: type[Any]) -> bool:
    return function.setup_context is not torch.autograd.Function.setup_context


def _own_functions() -> list[type[Any]]:
    """The user's functions, whether or not the model calls them."""
    functions: dict[type[Any], None] = {}
    pending: list[type[Any]] = [torch.autograd.Function]
    while pending:
        for function in pending.pop(0).__subclasses__():
            pending.append(function)
            if not function.__module__.startswith("torch."):
                functions[function] = None
    return [*functions]


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
