"""The contexts that a forward opens around its calls: what autograd records there, and what autocast computes in.

A graph has no ``with``: so each traced call carries the context that it stood in, where that is not the caller's own. What a
region without history means is spelled out by :mod:`.history`, a region of autocast by :mod:`.mixed_precision`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from .patching import replaced, this_thread

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
    found = node.meta.get(_KEY, PLAIN)
    assert isinstance(found, Context)
    return found


def place_in(node: fx.Node, context: Context) -> None:
    """Says what a call stands in."""
    if context != PLAIN:
        node.meta[_KEY] = context


@dataclass
class Surroundings:
    """The contexts that are open in a forward while it is traced within :func:`noted_contexts`."""

    records: bool = True
    open: list[Autocast] = field(default_factory=list)

    @property
    def now(self) -> Context:
        innermost = {a.device: a for a in self.open}
        return Context(self.records, tuple(innermost[d] for d in sorted(innermost)))


@contextmanager
def noted_contexts() -> Iterator[Surroundings]:
    """Notes what a forward itself opens, from :func:`plain_contexts` on."""
    found = Surroundings()
    with plain_contexts(), _noted_grad_mode(found), _noted_autocast(found.open):
        yield found


@contextmanager
def plain_contexts() -> Iterator[None]:
    """Traces as if the caller recorded gradients and used no autocast.

    An ``inference_mode`` of the forward's becomes a ``no_grad``: constants made in it would else be tensors that no
    backward pass may save, and torch.export would forget it.
    """
    with torch.inference_mode(False), torch.enable_grad(), _without_autocast(), _inference_as_no_grad():
        yield


@contextmanager
def _without_autocast() -> Iterator[None]:
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def _noted_grad_mode(found: Surroundings) -> Iterator[None]:
    """What the forward sets, in whichever way; an ``autograd.Function`` runs without gradients by itself, and is none of that."""
    mine, plain = this_thread(), torch._C._set_grad_enabled

    def set_mode(enabled: bool) -> None:
        plain(enabled)
        if mine():
            found.records = enabled

    with replaced(torch._C, "_set_grad_enabled", set_mode):
        yield


@contextmanager
def _noted_autocast(noted: list[Autocast]) -> Iterator[None]:
    mine, entered, left = this_thread(), torch.autocast.__enter__, torch.autocast.__exit__

    def enter(self: torch.autocast) -> Any:
        result = entered(self)
        if mine():
            noted.append(Autocast(self.device, self.fast_dtype, self._enabled))
        return result

    def leave(self: torch.autocast, *failure: Any) -> Any:
        if mine():
            noted.pop()
        return left(self, *failure)

    with replaced(torch.autocast, "__enter__", enter), replaced(torch.autocast, "__exit__", leave):
        yield


@contextmanager
def _inference_as_no_grad() -> Iterator[None]:
    mine, kind = this_thread(), torch.inference_mode
    entered, left = kind.__enter__, kind.__exit__

    def enter(self: Any) -> None:
        if not mine():
            entered(self)
        else:
            self._ffebm_before = torch.is_grad_enabled()
            torch._C._set_grad_enabled(not self.mode)

    def leave(self: Any, *failure: Any) -> None:
        if not mine():
            left(self, *failure)
        else:
            torch._C._set_grad_enabled(self._ffebm_before)

    with replaced(kind, "__enter__", enter), replaced(kind, "__exit__", leave):
        yield
