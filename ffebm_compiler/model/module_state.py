"""What a call of a model may change besides its result: attributes of its modules, and the states of random generators.

A run that only looks (a check, a measurement) puts all of it back; two runs that start alike are compared by what they changed.
Parameters and buffers are not held here: a run that only looks is given others in their place.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..passes import State
from ..passes.tracing import state as passes_state
from ..passes.tracing.state import GONE

_SECOND_LIST = "_flat_weight"
"""An LSTM's other list of its weights, which torch keeps."""


def written(state: State) -> dict[str, Any]:
    """By the path of an attribute that has changed since: what holds it now."""
    found: dict[str, Any] = {}
    for key, owners in state.changes().items():
        holder = state.holders[key].value
        for owner in (o for o in owners if not o.name.startswith(_SECOND_LIST)):
            path = ".".join(p for p in (owner.path, owner.name) if p)
            inner = holder.get(owner.name, GONE) if isinstance(holder, dict) and owner.name in holder else holder
            found[path] = _frozen(inner)
    return found


def is_alike(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Whether two values are the same to someone who reads them; tensors within ``tolerance`` of the largest entry."""
    return passes_state.is_alike(a, b, lambda t, u: _close(t, u, tolerance), tolerance)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if _same_tensor(a, b):
        return True
    if not a.is_floating_point() or tolerance == 0.0 or a.numel() == 0:
        return False
    largest = b.detach().abs().amax()
    return bool(((a.detach() - b.detach()).abs() <= tolerance * largest).all())


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    with torch.no_grad():
        if a.is_floating_point() or a.is_complex():
            return bool(((a == b) | ((a != a) & (b != b))).all())
        return torch.equal(a, b)


def _frozen(value: Any) -> Any:
    """A value that later runs don't change."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, deque)) and not hasattr(value, "_fields"):
        return [_frozen(v) for v in value]
    return value


@dataclass(frozen=True)
class RandomStates:
    """The states of the generators that a model may draw from without saying so: of torch, numpy and Python."""

    torchs: Tensor
    cudas: tuple[Tensor, ...]
    numpys: Any
    pythons: Any

    @classmethod
    def now(cls) -> RandomStates:
        cudas = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()
        return cls(torch.get_rng_state(), cudas, np.random.get_state(), random.getstate())

    def put_back(self) -> None:
        torch.set_rng_state(self.torchs)
        if self.cudas:
            torch.cuda.set_rng_state_all(list(self.cudas))
        np.random.set_state(self.numpys)
        random.setstate(self.pythons)

    def differing(self, other: RandomStates) -> tuple[str, ...]:
        """The generators that stand elsewhere than in ``other``."""
        same = {
            "torch": torch.equal(self.torchs, other.torchs),
            "torch on the GPU": len(self.cudas) == len(other.cudas) and all(map(torch.equal, self.cudas, other.cudas)),
            "numpy": is_alike(self.numpys, other.numpys),
            "random": self.pythons == other.pythons,
        }
        return tuple(name for name, alike in same.items() if not alike)


@contextmanager
def only_looking(network: nn.Module) -> Iterator[State]:
    """Puts what the network keeps between calls, and random generators, back afterwards as they were."""
    state, randoms = State(network), RandomStates.now()
    try:
        yield state
    finally:
        state.restore()
        randoms.put_back()
