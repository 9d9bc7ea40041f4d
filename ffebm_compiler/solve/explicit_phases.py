"""A block's free phase and nudged phases as sequences of plain operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from ..ir import Coupling, State, Weight
from .automatic import AUTOMATIC
from .binding import BoundBlock, States
from .differentiation import Drive, Gradients, Increment, UnderivableError, around, differences_from, tangents_at
from .explicit_code import Key
from .explicit_kept import Kept
from .explicit_maps import (
    AHEAD,
    COTANGENT,
    FREE,
    OFFSET,
    F,
    LinearMaps,
    NarrowMaps,
    Read,
    SweepMaps,
    at_free,
    curved,
    key_of,
    moved,
    offset,
    pulled,
    source,
)
from .parts import is_apart

Known = TypeVar("Known")


@dataclass(frozen=True)
class Sweeping:
    """A block's drives and their transposes during one relaxation, as code."""

    bound: BoundBlock
    maps: Kept
    _known: dict[str, tuple[SweepMaps, dict[Key, Tensor]]] = field(default_factory=dict, repr=False)

    def leaf(self, state: Tensor) -> Tensor:
        return state.detach()

    def drive(self, state: State, leaves: States, f: Tensor | None = None) -> Drive:
        sources = sources_of(state, leaves)
        with torch.no_grad():
            maps, fixed = self._prepared(state, sources)
            kept = {**fixed, **by(source, sources)}
            if f is not None:
                return Drive(f, sources, {**kept, **(maps.beside(kept) if maps.beside.outputs else {})})
            found = maps.forward(kept) if maps.forward.outputs else {}
        f = found.pop(F) if F in found else fixed[F]
        kept |= found
        return Drive(f, sources, kept, is_own=is_apart(f, kept.values()))

    def _prepared(self, state: State, sources: States) -> tuple[SweepMaps, dict[Key, Tensor]]:
        """The code of a drive, and what it computes from inputs and weights alone."""
        if state.name not in self._known:
            read = read_of(self.bound, state)
            maps = self.maps.sweeps(state, read, sources)
            self._known[state.name] = maps, {**read.tensors, **maps.once(read.tensors)}
        return self._known[state.name]

    def pull(self, state: State, drive: Drive, cotangent: Tensor) -> States:
        if not drive.sources:
            return {}
        maps, _ = self._known[state.name]
        with torch.no_grad():
            found = maps.back({**drive.kept, COTANGENT: cotangent})
        return {n: found[pulled(n)] for n in drive.sources}

    def holding(self, winners: Mapping[str, Tensor]) -> Sweeping:
        return Sweeping(self.bound.holding(winners), self.maps, _without_routed(self.bound, self._known))


@dataclass(frozen=True)
class NarrowProducts:
    """A block's linear couplings as code with its products in bfloat16; weights are rounded once."""

    bound: BoundBlock
    maps: Kept
    _known: dict[str, tuple[NarrowMaps, dict[Key, Tensor]]] = field(default_factory=dict, repr=False)

    def pays(self, state: State, sources: States) -> bool:
        if state.name not in self._known:
            read, sources = read_of(self.bound, state), sources_of(state, sources)
            self._known[state.name] = self.maps.narrows(state, read, sources), {**read.tensors, **by(source, sources)}
        return self._known[state.name][0].pays

    def _prepared(self, state: State) -> tuple[NarrowMaps, dict[Key, Tensor]]:
        """The code of a drive, and what it computes from inputs and weights alone, once it is needed."""
        maps, values = self._known[state.name]
        if not all(k in values for k in maps.once.outputs):
            with torch.no_grad():
                values |= maps.once(values)
        return maps, values

    def drive(self, state: State, sources: States) -> Tensor:
        maps, fixed = self._prepared(state)
        with torch.no_grad():
            found = maps.forward({**fixed, **by(source, sources_of(state, sources))})
        f: Tensor = found[F] if F in found else fixed[F].clone()  # known, if it reads its sources' shapes alone
        return f.to(next(iter(sources.values())).dtype)

    def push(self, state: State, d: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
        sources = state.drive.sources
        if not any(n in d for n in sources):
            return None, {}
        maps, fixed = self._prepared(state)
        moves = {moved(n): d[n] if n in d else torch.zeros_like(fixed[source(n)]) for n in sources}
        with torch.no_grad():
            return maps.push({**fixed, **moves})[AHEAD], {}

    def pull(self, state: State, d: Tensor) -> dict[str, Tensor]:
        if not state.drive.sources:
            return {}
        maps, fixed = self._prepared(state)
        with torch.no_grad():
            found = maps.pull({**fixed, COTANGENT: d})
        return {n: found[pulled(n)] for n in state.drive.sources}

    def holding(self, winners: Mapping[str, Tensor]) -> NarrowProducts:
        return NarrowProducts(self.bound.holding(winners), self.maps, _without_routed(self.bound, self._known))


class ExplicitLinearisation:
    """The interaction of a block around its free equilibrium, as code; the same as :class:`~.linearisation.Linearisation`."""

    def __init__(self, maps: Kept, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()):
        self.maps, self.bound, self.wanted = maps, bound, tuple(wanted)
        self.states = {k: v.detach() for k, v in states.items()}
        self.drives: dict[str, tuple[LinearMaps, dict[Key, Tensor]]] = {}
        with torch.no_grad():
            for state in bound.block.states:
                self.drives[state.name] = self._at(state)

    @cached_property
    def _activations(self) -> States:
        with torch.no_grad():
            found = {n: maps.around(kept) for n, (maps, kept) in self.drives.items()}
        sources = {s.name: s.drive.sources for s in self.bound.block.states}
        back = {n: {m: f[at_free(m)] for m in sources[n]} for n, f in found.items()}
        return around(self.bound, {n: f[F] for n, f in found.items()}, back)

    @cached_property
    def differences(self) -> Mapping[str, Increment]:
        return differences_from(self.bound, self._activations)

    @cached_property
    def tangents(self) -> Mapping[str, Increment]:
        return tangents_at(self.bound, self.states, lambda: self._activations)

    @cached_property
    def narrow(self) -> NarrowProducts:
        return NarrowProducts(self.bound, self.maps)

    def _at(self, state: State) -> tuple[LinearMaps, dict[Key, Tensor]]:
        """The code around a drive, and what it computes from the free states alone."""
        read, sources, free = read_of(self.bound, state), sources_of(state, self.states), self.states[state.name]
        maps = self.maps.linears(state, read, sources, free)
        values = {**read.tensors, **by(source, sources), FREE: free}
        return maps, {**values, **maps.at(values)}

    def push(self, state: State, d: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
        sources = state.drive.sources
        if not any(n in d for n in sources):
            return None, {}
        maps, kept = self.drives[state.name]
        moves = {moved(n): d[n] if n in d else torch.zeros_like(self.states[n]) for n in sources}
        with torch.no_grad():
            found = maps.push({**kept, **moves})
        return found[AHEAD], {n: found[curved(n)] for n in sources if curved(n) in found}

    def pull(self, state: State, d: Tensor) -> dict[str, Tensor]:
        maps, kept = self.drives[state.name]
        with torch.no_grad():
            found = maps.pull({**kept, COTANGENT: d})
        return {n: found[pulled(n)] for n in state.drive.sources}

    def contrast(self, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor], scale: float = 1.0) -> Gradients:
        try:
            return self._contrast(difference, mean, scale)
        except UnderivableError:
            return AUTOMATIC.linearise(self.bound, self.states, self.wanted).contrast(difference, mean, scale)

    def _contrast(self, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor], scale: float) -> Gradients:
        total = Total(self.bound, self.wanted)
        with torch.no_grad():
            for state in self.bound.block.states:
                factor = -scale * self.bound.layer_weights[state.name]
                total.add(factor, self._directional(state, difference, mean))
        return total.gradients

    def gradient(self, state: State, cotangent: Tensor) -> Gradients:
        still = {n: torch.zeros_like(self.states[n]) for n in state.drive.sources}
        try:
            with torch.no_grad():
                found = self._directional(state, {state.name: cotangent, **still}, {})
        except UnderivableError:
            return AUTOMATIC.linearise(self.bound, self.states, self.wanted).gradient(state, cotangent)
        return {key.path if isinstance(key, Weight) else str(key): g for key, g in found.items()}

    def _directional(
        self, state: State, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor]
    ) -> dict[Key, Tensor]:
        """The gradient of ``<D_m, f_m(s* + h)> + <s_m* + h_m, J_m D>`` in the wanted inputs and weights of one state's drive."""
        n, sources, free = state.name, sources_of(state, self.states), self.states[state.name]
        read, keys = read_of(self.bound, state), wanted_keys(state.drive, self.wanted)
        code = self.maps.contrasts(state, read, sources, free, keys, bool(mean))
        values = {**read.tensors, **by(source, sources), FREE: free, COTANGENT: difference[n]}
        values |= {moved(m): difference[m] for m in sources}
        if mean:
            values |= {OFFSET: mean[n], **{offset(m): mean[m] for m in sources}}
        return code(values)


class Total:
    """Gradients summed over the states of a block, zero to begin with."""

    def __init__(self, bound: BoundBlock, wanted: Sequence[str]):
        self._like = {n: bound.inputs[n] if n in bound.inputs else bound.weights[n] for n in wanted}
        self._found: Gradients = {}

    def add(self, factor: float, found: Mapping[Key, Tensor]) -> None:
        for key, g in found.items():
            name = key.path if isinstance(key, Weight) else str(key)
            if name in self._found:
                self._found[name] = self._found[name].add(g, alpha=factor)
            else:
                self._found[name] = g if factor == 1.0 else factor * g

    @property
    def gradients(self) -> Gradients:
        return {n: self._found[n] if n in self._found else torch.zeros_like(v) for n, v in self._like.items()}


def _without_routed(bound: BoundBlock, known: Mapping[str, Known]) -> dict[str, Known]:
    """What is known of states whose drives stay the same when winners are held."""
    same = {s.name for s in bound.block.states if not s.drive.is_routed}
    return {n: v for n, v in known.items() if n in same}


def read_of(bound: BoundBlock, state: State) -> Read:
    return Read.of(state.drive, bound.inputs, bound.weights)


def sources_of(state: State, states: Mapping[str, Tensor]) -> States:
    return {n: states[n].detach() for n in state.drive.sources}


def by(key: Callable[[str], Key], values: Mapping[str, Tensor]) -> dict[Key, Tensor]:
    return {key(n): v for n, v in values.items()}


def wanted_keys(coupling: Coupling, names: Sequence[str]) -> tuple[Key, ...]:
    read = {*coupling.inputs, *coupling.weights}
    return tuple(key_of(coupling, n) for n in names if n in read)
