"""The contexts that a forward opens around its calls: what autograd records there, and what autocast computes in.

A graph has no ``with``: so each traced call carries the context that it stood in, where that is not the caller's own. What a
region without history means is spelled out by :mod:`.history`, a region of autocast by :mod:`.mixed_precision`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
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


def with_autocast(
    device: str, dtype: torch.dtype, enabled: bool, call: str | Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """A call of a function, or of a method by name, under a setting of autocast."""
    with torch.autocast(device, dtype, enabled):
        return getattr(args[0], call)(*args[1:], **kwargs) if isinstance(call, str) else call(*args, **kwargs)


def called(node: fx.Node) -> Any:
    """The function or method that a call calls, under whichever setting."""
    target: Any = node.target
    args = node.args
    while target is with_autocast:
        target, args = args[3], args[4:]
    return target


@dataclass
class Surroundings:
    """The contexts that are open in a forward while it is traced within :func:`noted_contexts`.

    Attributes:
        records: whether autograd records.
        open: the regions of autocast, from the outermost on.
        settings: PyTorch's other settings that change what a call computes, as they were at first.
    """

    records: bool = True
    open: list[Autocast] = field(default_factory=list)
    settings: tuple[Any, ...] = field(default_factory=lambda: _settings())

    @property
    def now(self) -> Context:
        innermost = {a.device: a for a in self.open}
        return Context(self.records, tuple(innermost[d] for d in sorted(innermost)))

    @property
    def is_set_otherwise(self) -> bool:
        """Whether the forward has changed a setting that no call carries: the default type, the precision of
        products."""
        return _settings() != self.settings


@contextmanager
def noted_contexts(grad_mode: bool = True) -> Iterator[Surroundings]:
    """Traces as if the caller recorded gradients and used no autocast, and notes what the forward itself opens.

    An ``inference_mode`` of the forward's becomes a ``no_grad``: constants made in it would else be tensors that no
    backward pass may save, and torch.export would forget it.

    Args:
        grad_mode: whether grad modes are noted too; torch.export does that by itself.
    """
    with torch.inference_mode(False), torch.enable_grad(), _without_autocast():
        found = Surroundings()
        noted = _noted_grad_mode(found) if grad_mode else nullcontext()
        with noted, _noted_autocast(found.open), _inference_as_no_grad():
            yield found


def _settings() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )


def callers_autocast() -> tuple[Autocast, ...]:
    """The settings of autocast that are in force here."""
    open_for = (d for d in ("cpu", "cuda") if torch.is_autocast_enabled(d))
    return tuple(Autocast(d, torch.get_autocast_dtype(d), True) for d in open_for)


@contextmanager
def _without_autocast() -> Iterator[None]:
    with ExitStack() as stack:
        for setting in callers_autocast():
            stack.enter_context(torch.autocast(setting.device, enabled=False))
        yield


@contextmanager
def _noted_grad_mode(found: Surroundings) -> Iterator[None]:
    """What the forward sets, in whichever way; an ``autograd.Function`` runs without gradients by itself, and is
    none of that."""
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
