"""Functions of Python's ``math`` become calls of the graph where a number is traced, such as a size.

torch.fx does that too, in whichever thread calls a module meanwhile; here it is for the tracing thread alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from .patching import replaced_everywhere, this_thread
from .users_code import spaces_of


@contextmanager
def numbers_recorded(network: nn.Module) -> Iterator[None]:
    """While a network is traced."""
    functions = [f for name, f in vars(math).items() if callable(f) and not name.startswith("_")]
    with replaced_everywhere([vars(math), *spaces_of(network)], {f: _recorded(f) for f in functions}):
        yield


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers that becomes a call of the graph, where a number is traced."""
    mine = this_thread()

    def record(*given: Any, **named: Any) -> Any:
        proxies = [g for g in (*given, *named.values()) if isinstance(g, fx.Proxy)] if mine() else []
        if proxies:
            return proxies[0].tracer.create_proxy("call_function", function, given, named)
        return function(*given, **named)

    return record
