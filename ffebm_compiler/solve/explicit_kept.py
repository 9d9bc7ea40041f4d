"""What was derived from couplings, kept for the operations, shapes, types and device that it belongs to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..ir import Coupling, State
from .binding import States
from .explicit_code import Code, Key
from .explicit_maps import LinearMaps, Read, SweepMaps, contrast_map, gradient_map, linear_maps, sweep_maps

Found = TypeVar("Found")


class Kept:
    """Code of couplings, by what it depends on.

    Args:
        capacity: how many codes to keep; the longest unused go first.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._kept: OrderedDict[Key, tuple[Coupling, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def sweeps(self, state: State, read: Read, sources: States) -> SweepMaps:
        return self.find("sweep", state.drive, read, sources, sweep_maps)

    def linears(self, state: State, read: Read, sources: States, cotangent: Tensor) -> LinearMaps:
        return self.find("linear", state.drive, read, sources, partial(linear_maps, cotangent=cotangent))

    def contrasts(
        self, state: State, read: Read, sources: States, cotangent: Tensor, wanted: Sequence[Key], mean: bool
    ) -> Code:
        push = self.linears(state, read, sources, cotangent).whole_push
        make = partial(contrast_map, cotangent=cotangent, wanted=wanted, push=push, mean=mean)
        return self.find("contrast", state.drive, read, sources, make, *wanted, mean)

    def gradients(self, state: State, read: Read, sources: States, wanted: Sequence[Key]) -> Code:
        return self.find("gradient", state.drive, read, sources, partial(gradient_map, wanted=wanted), *wanted)

    def find(
        self,
        kind: str,
        coupling: Coupling,
        read: Read,
        sources: Mapping[str, Tensor],
        make: Callable[[Coupling, Read, Mapping[str, Tensor]], Found],
        *choices: Key,
    ) -> Found:
        """What ``make`` derives from a coupling, made at its first use at these shapes."""
        shapes = tuple((k, v.shape, v.dtype, v.device) for k, v in (*read.tensors.items(), *sources.items()))
        key = (kind, _identity(coupling), shapes, _frozen(read.constants), choices, _precision(shapes))
        if key not in self._kept:
            self._kept[key] = (coupling, make(coupling, read, sources))
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        found: Found = self._kept[key][1]
        return found


def _identity(coupling: Coupling) -> Key:
    """What a coupling computes; one whose winners are held is made anew each time, of the same functions."""
    terms = tuple((t.name, t.operation.function, _frozen(t.operation.options), t.operands) for t in coupling.terms)
    return terms, coupling.output, coupling.sources, coupling.inputs


def _frozen(value: Any) -> Key:
    """A constant as a key; by identity where it is neither a number, a name nor a nest of them (the coupling keeps it alive)."""
    if isinstance(value, Mapping):
        return tuple((k, _frozen(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value).__name__, *(_frozen(v) for v in value)
    plain = value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))
    return (type(value).__name__, value if plain else id(value))


def _precision(shapes: Sequence[tuple[Any, ...]]) -> Key:
    """The mixed precision that operations run in now."""
    device = shapes[0][3].type if shapes else "cpu"
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
