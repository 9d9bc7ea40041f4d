"""Buffers that a forward assigns while torch.export runs it, which knows of the model's own alone, and forgets those of its layers.

self.mean = 0.9 * self.mean + 0.1 * h.mean(0)        means        self.mean.copy_(...), behind the last read of what it was
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from .state import Owned
from .whole_calls import refuse_writes

_REGISTRIES = ("_parameters", "_buffers")


class Registered:
    """What is registered with the modules of a network before its forward runs."""

    def __init__(self, network: nn.Module):
        self._before = [
            (path, name, vars(m)[name], dict(vars(m)[name]))
            for path, m in network.named_modules()
            for name in _REGISTRIES
        ]

    def has_changed(self) -> bool:
        """Whether any tensor was put in the place of another."""
        return any(now.get(n) is not before.get(n) for _, _, now, before in self._before for n in {**before, **now})

    def write(self) -> None:
        """Writes into each buffer what was assigned in its place.

        Raises:
            LosesMeaning: that does not fit, or took the place of a parameter.
        """
        refuse_writes(set(self._written()))

    def _written(self) -> Iterator[Owned]:
        for path, registry, now, before in self._before:
            for name in [n for n in {**before, **now} if now.get(n) is not before.get(n)]:
                new, old = now.get(name), before.get(name)
                if registry == "_parameters" or not _fits(new, old):
                    yield Owned(path, name)
                elif path:
                    old.copy_(new.detach())  # type: ignore[union-attr]
                    now[name] = old


def _fits(new: Any, old: Any) -> bool:
    """Whether one tensor can hold the other."""
    both = isinstance(new, Tensor) and isinstance(old, Tensor)
    return both and (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device)
