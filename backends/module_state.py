"""What a call of a model may change besides its result: attributes of its modules, and the states of random generators.

A run that only looks (a check, a measurement) puts all of it back; two runs that start alike are compared by what they changed.
Parameters and buffers are not held here: a run that only looks is given others in their place.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OWN = frozenset(vars(nn.Module())) | {"training"}
"""What torch keeps in a module: registries and hooks, which are no values of the model's."""

_DEPTH = 6
"""How many containers within containers are looked into."""

GONE = object()
"""Stands for an attribute that is there no more."""


@dataclass(frozen=True)
class Held:
    """A thing that can be changed in place, and what it held."""

    path: str
    thing: Any
    content: Any

    def put_back(self) -> None:
        if isinstance(self.thing, Tensor):
            if not _same_tensor(self.thing, self.content):
                with torch.no_grad():
                    self.thing.copy_(self.content)
        elif isinstance(self.thing, (list, deque)):
            self.thing.clear()
            self.thing.extend(self.content)
        elif isinstance(self.thing, (dict, set)):
            self.thing.clear()
            self.thing.update(self.content)
        else:
            held = vars(self.thing)
            for name in [n for n in held if n not in self.content and not _is_torchs(self.thing, n)]:
                del held[name]
            held.update(self.content)


@dataclass(frozen=True)
class Attributes:
    """The plain attributes of all modules of a model, and everything that can be reached from them."""

    held: tuple[Held, ...]

    @classmethod
    def of(cls, network: nn.Module) -> Attributes:
        return cls(tuple(_reached(network)))

    def put_back(self) -> None:
        for held in self.held:
            held.put_back()

    def changes(self) -> dict[str, Any]:
        """By the path of what has changed since: its value now, or :data:`GONE`."""
        found: dict[str, Any] = {}
        for held in self.held:
            now = _content(held.thing)
            if isinstance(held.content, Mapping) and isinstance(now, Mapping):
                for key in (*held.content, *(k for k in now if k not in held.content)):
                    before, after = held.content.get(key, GONE), now.get(key, GONE)
                    if before is not after and not is_alike(before, after):
                        found[f"{held.path}.{key}".lstrip(".")] = _frozen(after)
            elif not is_alike(held.content, now):
                found[held.path] = _frozen(now)
        return found


def is_alike(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Whether two values are the same to someone who reads them; tensors within ``tolerance`` of the largest entry."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _close(a, b, tolerance)
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(is_alike(v, b[k], tolerance) for k, v in a.items())
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(is_alike(v, w, tolerance) for v, w in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if is_dataclass(a):
        return all(is_alike(getattr(a, f.name, GONE), getattr(b, f.name, GONE), tolerance) for f in fields(a))
    if isinstance(a, float):
        return a == b or (a != a and b != b) or abs(a - b) <= tolerance * abs(b)
    try:
        return bool(a == b) or (hasattr(a, "__dict__") and is_alike(vars(a), vars(b), tolerance))
    except Exception:  # whatever the comparison of a user's own type raises
        return False


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


def _reached(network: nn.Module) -> Iterator[Held]:
    """Every module's attributes, and what can be changed in place behind them, each once."""
    met: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [(path, module, 0) for path, module in network.named_modules()]
    while waiting:
        path, thing, depth = waiting.pop()
        if id(thing) in met or not _is_held(thing, depth):
            continue
        met.add(id(thing))
        content = _content(thing)
        yield Held(path, thing, content)
        if isinstance(content, Mapping):
            waiting += [(f"{path}.{k}".lstrip("."), v, depth + 1) for k, v in content.items()]
        elif isinstance(content, (list, tuple)):
            waiting += [(f"{path}[{i}]", v, depth + 1) for i, v in enumerate(content)]


def _is_held(thing: Any, depth: int) -> bool:
    """Whether a value can be changed in place by a model's forward; classes, functions and what torch owns are not."""
    if isinstance(thing, nn.Module):
        return depth == 0
    if depth > _DEPTH or isinstance(thing, (nn.Parameter, type)) or callable(thing):
        return False
    if isinstance(thing, (Tensor, list, dict, set, deque)):
        return True
    return hasattr(thing, "__dict__") and not type(thing).__module__.startswith(("torch", "builtins", "numpy"))


def _content(thing: Any) -> Any:
    """A shallow copy of what a thing holds now."""
    if isinstance(thing, Tensor):
        return thing.detach().clone()
    if isinstance(thing, (list, deque)):
        return list(thing)
    if isinstance(thing, (dict, set)):
        return (
            type(thing)(thing)
            if type(thing) in (dict, set)
            else (dict(thing) if isinstance(thing, dict) else set(thing))
        )
    return {n: v for n, v in vars(thing).items() if not _is_torchs(thing, n)}


def _is_torchs(thing: Any, name: str) -> bool:
    """Registries and hooks, and an LSTM's second list of its weights."""
    return isinstance(thing, nn.Module) and (name in _OWN or (isinstance(thing, nn.RNNBase) and name[:5] == "_flat"))


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
def only_looking(network: nn.Module) -> Iterator[Attributes]:
    """Puts attributes of the network's modules, and random generators, back afterwards as they were."""
    attributes, randoms = Attributes.of(network), RandomStates.now()
    try:
        yield attributes
    finally:
        attributes.put_back()
        randoms.put_back()
