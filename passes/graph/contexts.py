"""The contexts that a forward opens around its calls: what autograd records there, and what autocast computes in.

A graph has no ``with``, so each traced call carries the context that it stood in, where that is not the caller's own.
:mod:`.regions` spells out what these mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

_KEY = "ffebm_context"


@dataclass(frozen=True)
class Autocast:
    """What ``torch.autocast`` is set to, for one type of device."""

    device: str
    dtype: torch.dtype
    enabled: bool


@dataclass(frozen=True)
class Context:
    """What a call stands in.

    Attributes:
        records: whether autograd records it, if it records at all.
        autocast: the forward's own settings, one a type of device; elsewhere the caller's hold.
    """

    records: bool = True
    autocast: tuple[Autocast, ...] = ()


PLAIN = Context()
"""The caller's own."""


def context_of(node: fx.Node) -> Context:
    context = node.meta.get(_KEY, PLAIN)
    assert isinstance(context, Context)
    return context


def place_in(node: fx.Node, context: Context) -> None:
    """Says what a call stands in."""
    if context != PLAIN:
        node.meta[_KEY] = context


def with_autocast(
    device: str, dtype: torch.dtype, enabled: bool, call: str | Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """A call of a function, or of a method by name, under a setting of autocast."""
    with torch.autocast(device, dtype, enabled):
        return getattr(args[0], call)(*args[1:], **kwargs) if isinstance(call, str) else call(*args, **kwargs)


def called(node: fx.Node) -> Any:
    """The function or method that a call calls, under whichever setting."""
    target: Any
    target, args = node.target, node.args
    while target is with_autocast:
        target, args = args[3], args[4:]
    return target
