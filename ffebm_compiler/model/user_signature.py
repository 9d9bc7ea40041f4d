"""``forward`` with the signature of the user's own: trainers and data loaders read the names of a model's arguments from it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch

KEPT = "_shown_forward"
"""Where a model keeps its forward with the signature that it shows."""


class ShownForward:
    """A method whose bound form has the signature of ``model.network.forward``."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, model: Any, owner: type[Any]) -> Callable[..., Any]:
        if model is None:
            return self.function
        if torch.compiler.is_compiling():  # a compiler can't trace the making of a method
            return functools.partial(self.function, model)
        kept = vars(model)
        if KEPT not in kept:
            kept[KEPT] = _with_signature(self.function, model.network)
        return MethodType(kept[KEPT], model)


def _with_signature(function: Callable[..., Any], network: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    theirs = inspect.signature(network.forward)
    mine = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    shown: Any = forward
    shown.__signature__ = theirs.replace(parameters=[mine, *theirs.parameters.values()])
    return forward
