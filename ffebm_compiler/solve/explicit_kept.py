"""What was derived from couplings, kept for the operations, shapes, types and device that it belongs to.

Couplings that differ in nothing but names share their code: a thousand equal layers are derived from once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..ir import Coupling, State
from .binding import States
from .differentiation import UnderivableError
from .explicit_code import Code, Key
from .explicit_maps import (
    LinearMaps,
    NarrowMaps,
    Read,
    SweepMaps,
    contrast_map,
    gradient_map,
    linear_maps,
    narrow_maps,
    sweep_maps,
)
from .explicit_names import Names

Found = TypeVar("Found", Code, SweepMaps, LinearMaps, NarrowMaps)


ONE_AT_A_TIME = RLock()
"""Tracing changes how this process dispatches operations while it lasts, so that of another thread would fail."""


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
        names = Names.of(state.drive)
        return names.outward(self._sweeps(names, read, sources))

    def _sweeps(self, names: Names, read: Read, sources: States) -> SweepMaps:
        return self._find("sweep", names, read, sources, sweep_maps)

    def linears(self, state: State, read: Read, sources: States, cotangent: Tensor) -> LinearMaps:
        names = Names.of(state.drive)
        return names.outward(self._linears(names, read, sources, cotangent))

    def _linears(self, names: Names, read: Read, sources: States, cotangent: Tensor) -> LinearMaps:
        return self._find("linear", names, read, sources, partial(linear_maps, cotangent=cotangent))

    def narrows(self, state: State, read: Read, sources: States) -> NarrowMaps:
        names = Names.of(state.drive)
        return names.outward(self._narrows(names, read, sources))

    def _narrows(self, names: Names, read: Read, sources: States) -> NarrowMaps:
        return self._find("narrow", names, read, sources, narrow_maps)

    def contrasts(
        self, state: State, read: Read, sources: States, cotangent: Tensor, wanted: Sequence[Key], mean: bool
    ) -> Code:
        names = Names.of(state.drive)
        push = self._linears(names, read, sources, cotangent).whole_push
        inner = tuple(names.inward(k) for k in wanted)
        make = partial(contrast_map, cotangent=cotangent, wanted=inner, push=push, mean=mean)
        return names.outward(self._find("contrast", names, read, sources, make, *inner, mean))

    def gradients(self, state: State, read: Read, sources: States, wanted: Sequence[Key]) -> Code:
        names = Names.of(state.drive)
        inner = tuple(names.inward(k) for k in wanted)
        return names.outward(self._find("gradient", names, read, sources, partial(gradient_map, wanted=inner), *inner))

    def _find(
        self,
        kind: str,
        names: Names,
        read: Read,
        sources: Mapping[str, Tensor],
        make: Callable[[Coupling, Read, Mapping[str, Tensor]], Found],
        *choices: Key,
    ) -> Found:
        """What ``make`` derives from a coupling, made at its first use at these shapes.

        Raises:
            UnderivableError: it can't be derived, which is kept as well.
        """
        shapes = tuple([(v.shape, v.dtype, v.device) for v in (*read.tensors.values(), *sources.values())])
        constants = tuple([(names.inner[n], _frozen(v)) for n, v in read.constants.items()])
        key = (kind, identity_of(names), shapes, constants, choices, _precision(shapes))
        with ONE_AT_A_TIME:
            if key not in self._kept:
                coupling = names.coupling
                self._kept[key] = (coupling, _made(make, coupling, names.read(read), names.sources(sources)))
                while len(self._kept) > self.capacity:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            found = self._kept[key][1]
        if isinstance(found, UnderivableError):
            raise UnderivableError(*found.args)
        return found  # type: ignore[no-any-return]


def _made(make: Callable[..., Found], coupling: Coupling, read: Read, sources: States) -> Found | UnderivableError:
    """What was made, or why it could not be: a coupling that looks at the values it is given fails in ways of its own."""
    try:
        return make(coupling, read, sources)
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:
        return UnderivableError(f"{type(failure).__name__}: {failure}")


@dataclass(frozen=True, eq=False)
class Identity:
    """What a coupling computes, one object for all that compute the same: it is compared and hashed as that object.

    Attributes:
        coupling: one of them, which keeps alive what the identity goes by.
    """

    coupling: Coupling


_IDENTITIES: WeakValueDictionary[Key, Identity] = WeakValueDictionary()


def identity_of(names: Names) -> Identity:
    """The identity of a coupling, found once."""
    known: Identity | None = names.memory.get("identity")
    if known is None:
        known = names.memory["identity"] = _IDENTITIES.setdefault(_content(names.coupling), Identity(names.coupling))
    return known


def _content(coupling: Coupling) -> Key:
    """What a coupling computes; one whose winners are held is made anew each time, of the same functions."""
    terms = tuple(
        (_frozen(t.operation.function), t.operation.linear, _frozen(t.operation.options), t.operands)
        for t in coupling.terms
    )
    return terms, coupling.output, coupling.sources, coupling.inputs


def _frozen(value: Any) -> Key:
    """A constant as a key; by identity where it is neither a number, a name nor a nest of them (the coupling keeps it alive)."""
    if isinstance(value, Mapping):
        return tuple((k, _frozen(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value).__name__, *(_frozen(v) for v in value)
    if isinstance(value, partial):
        return "partial", _frozen(value.func), _frozen(value.args), _frozen(value.keywords)
    plain = value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))
    return (type(value).__name__, value if plain else id(value))


def _precision(shapes: Sequence[tuple[Any, ...]]) -> Key:
    """The mixed precision that operations run in now."""
    device = shapes[0][2].type if shapes else "cpu"
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
