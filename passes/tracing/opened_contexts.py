"""Which contexts a forward opens while it is traced: grad modes and autocast.

A trace runs as if the caller recorded gradients and used no autocast; what the forward itself opens is noted, so that
each call carries it (:mod:`..graph.contexts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from ..graph.contexts import Autocast, Context
from .patching import all_of, replaced_here


def _settings() -> tuple[Any, ...]:
    """PyTorch's other settings that change what a call computes."""
    return (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )


@dataclass
class Surroundings:
    """The contexts that are open in a forward while it is traced within :func:`noted_contexts`.

    Attributes:
        records: whether autograd records.
        open: the regions of autocast, from the outermost on.
        settings: PyTorch's other settings, as they were at first.
    """

    records: bool = True
    open: list[Autocast] = field(default_factory=list)
    settings: tuple[Any, ...] = field(default_factory=_settings)

    @property
    def now(self) -> Context:
        innermost = {a.device: a for a in self.open}
        return Context(self.records, tuple(innermost[d] for d in sorted(innermost)))

    @property
    def is_set_otherwise(self) -> bool:
        """Whether the forward has changed a setting that no call carries, such as the default type."""
        return _settings() != self.settings


@contextmanager
def noted_contexts(grad_mode: bool = True) -> Iterator[Surroundings]:
    """Notes what the forward opens, and shields it from what its caller has opened.

    Args:
        grad_mode: whether grad modes are noted too; torch.export does that by itself.
    """
    shields = [torch.autocast(setting.device, enabled=False) for setting in callers_autocast()]
    with torch.inference_mode(False), torch.enable_grad(), all_of(shields):
        surroundings = Surroundings()
        noted = _noted_grad_mode(surroundings) if grad_mode else nullcontext()
        with noted, _noted_autocast(surroundings.open), _inference_as_no_grad():
            yield surroundings


def callers_autocast() -> tuple[Autocast, ...]:
    """The settings of autocast that are in force here."""
    open_for = (d for d in ("cpu", "cuda") if torch.is_autocast_enabled(d))
    return tuple(Autocast(d, torch.get_autocast_dtype(d), True) for d in open_for)


def _noted_grad_mode(surroundings: Surroundings) -> AbstractContextManager[None]:
    """What the forward sets, in whichever way; an ``autograd.Function`` runs without gradients by itself.

    Private: every public way to set the mode (no_grad, enable_grad, set_grad_enabled) calls this one function;
    without it each of them is replaced by itself.
    """

    def noted(plain: Any) -> Any:
        def set_mode(enabled: bool) -> None:
            plain(enabled)
            surroundings.records = enabled

        return set_mode

    return replaced_here(torch._C, "_set_grad_enabled", noted)


def _noted_autocast(regions: list[Autocast]) -> AbstractContextManager[None]:
    def entered(plain: Any) -> Any:
        def enter(self: torch.autocast) -> Any:
            result = plain(self)
            regions.append(Autocast(self.device, self.fast_dtype, self._enabled))
            return result

        return enter

    def left(plain: Any) -> Any:
        def leave(self: torch.autocast, *failure: Any) -> Any:
            regions.pop()
            return plain(self, *failure)

        return leave

    kind = torch.autocast
    return all_of([replaced_here(kind, "__enter__", entered), replaced_here(kind, "__exit__", left)])


def _inference_as_no_grad() -> AbstractContextManager[None]:
    """An ``inference_mode`` of the forward's becomes a ``no_grad``: constants made in it would else be tensors that no
    backward pass may save, and torch.export would forget it."""

    def enter(self: Any) -> None:
        self._ffebm_before = torch.is_grad_enabled()
        torch.set_grad_enabled(not self.mode)

    def leave(self: Any, *failure: Any) -> None:
        torch.set_grad_enabled(self._ffebm_before)

    kind = torch.inference_mode
    return all_of(
        [replaced_here(kind, "__enter__", lambda plain: enter), replaced_here(kind, "__exit__", lambda plain: leave)]
    )
