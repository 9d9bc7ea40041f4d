"""Derivatives of the interaction as code: derived once, run without automatic differentiation.

Each coupling's transpose, Jacobian and gradients are traced at the shapes they are first needed at (:mod:`.explicit_maps`) and kept.
Relaxations, contrasts and reverse gains are then sequences of plain operations; what does not depend on the states is
computed once a relaxation, and what depends on the free states alone once a nudged phase.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..ir import Coupling, State, Weight
from .binding import BoundBlock, States
from .differentiation import Drive, Gradients, around
from .explicit_code import Code, Key
from .explicit_maps import (
    COTANGENT,
    FREE,
    MOVED,
    OFFSET,
    F,
    LinearMaps,
    Read,
    SweepMaps,
    at_free,
    contrast_map,
    curved,
    gradient_map,
    key_of,
    linear_maps,
    moved,
    offset,
    pulled,
    source,
    sweep_maps,
)

Found = TypeVar("Found")


class Explicit:
    """Differentiates interactions by code that it keeps.

    A code belongs to a coupling's operations and to the shapes, types and device of what it reads, so another batch size is derived
    for anew, and moving weights are not.

    Args:
        capacity: how many codes to keep; the longest unused go first.
    """

    def __init__(self, capacity: int = 4096):
        self.capacity = capacity
        self._kept: OrderedDict[Key, tuple[Coupling, Any]] = OrderedDict()

    def __reduce__(self) -> tuple[type[Explicit], tuple[int]]:
        return type(self), (self.capacity,)  # a copy derives its own

    def __len__(self) -> int:
        return len(self._kept)

    def interaction(self, bound: BoundBlock) -> Sweeping:
        return Sweeping(bound, self)

    def linearise(
        self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()
    ) -> ExplicitLinearisation:
        return ExplicitLinearisation(self, bound, states, wanted)

    def interaction_gradients(
        self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> Gradients:
        total = _Total(bound, wanted)
        with torch.no_grad():
            for state in bound.block.states:
                read = _read(bound, state)
                sources = _sources(state, states)
                keys = _wanted(state.drive, wanted)
                code = self.find("gradient", state.drive, read, sources, partial(gradient_map, wanted=keys), *keys)
                values = {**read.tensors, **_by(source, sources), COTANGENT: states[state.name].detach()}
                total.add(bound.layer_weights[state.name], code(values))
        return total.gradients

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


@dataclass(frozen=True)
class Sweeping:
    """A block's drives and their transposes during one relaxation, as code."""

    bound: BoundBlock
    maps: Explicit
    _known: dict[str, tuple[SweepMaps, dict[Key, Tensor]]] = field(default_factory=dict, repr=False)

    def leaf(self, state: Tensor) -> Tensor:
        return state.detach()

    def drive(self, state: State, leaves: States) -> Drive:
        sources = _sources(state, leaves)
        with torch.no_grad():
            maps, fixed = self._prepared(state, sources)
            kept = {**fixed, **_by(source, sources)}
            found = maps.forward(kept) if maps.forward.outputs else {}
        return Drive(found[F] if F in found else fixed[F], sources, {**kept, **found})

    def _prepared(self, state: State, sources: States) -> tuple[SweepMaps, dict[Key, Tensor]]:
        """The code of a drive, and what it computes from inputs and weights alone."""
        if state.name not in self._known:
            read = _read(self.bound, state)
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

    def feedback(self, leaves: States, drives: Mapping[str, Drive]) -> States:
        w, total = self.bound.layer_weights, States()
        for state in self.bound.block.states:
            if drives[state.name].sources:
                for n, back in self.pull(state, drives[state.name], w[state.name] * leaves[state.name]).items():
                    total[n] = total[n] + back if n in total else back
        return {n: p / w[n] for n, p in total.items()}

    def holding(self, winners: Mapping[str, Tensor]) -> Sweeping:
        held = self.bound.holding(winners)
        same = {s.name for s in self.bound.block.states if not s.drive.is_routed}
        return Sweeping(held, self.maps, {n: known for n, known in self._known.items() if n in same})


class ExplicitLinearisation:
    """The interaction of a block around its free equilibrium, as code; the same as :class:`~.linearisation.Linearisation`."""

    def __init__(self, maps: Explicit, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()):
        self.maps, self.bound, self.wanted = maps, bound, tuple(wanted)
        self.states = {k: v.detach() for k, v in states.items()}
        self.drives: dict[str, tuple[LinearMaps, dict[Key, Tensor]]] = {}
        with torch.no_grad():
            for state in bound.block.states:
                self.drives[state.name] = self._at(state)
        sources = {s.name: s.drive.sources for s in bound.block.states}
        a = around(
            bound,
            {n: kept[F] for n, (_, kept) in self.drives.items()},
            {n: {m: kept[at_free(m)] for m in sources[n]} for n, (_, kept) in self.drives.items()},
        )
        self.differences = {s.name: s.potential.difference_from(a[s.name]) for s in bound.block.states}
        self.tangents = {s.name: partial(s.potential.tangent, a[s.name]) for s in bound.block.states}

    def _at(self, state: State) -> tuple[LinearMaps, dict[Key, Tensor]]:
        """The code around a drive, and what it computes from the free states alone."""
        read, sources, free = _read(self.bound, state), _sources(state, self.states), self.states[state.name]
        maps = self.maps.linears(state, read, sources, free)
        values = {**read.tensors, **_by(source, sources), FREE: free}
        return maps, {**values, **maps.at(values)}

    def push(self, state: State, d: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
        sources = state.drive.sources
        if not any(n in d for n in sources):
            return None, {}
        maps, kept = self.drives[state.name]
        moves = {moved(n): d[n] if n in d else torch.zeros_like(self.states[n]) for n in sources}
        with torch.no_grad():
            found = maps.push({**kept, **moves})
        return found[MOVED], {n: found[curved(n)] for n in sources if curved(n) in found}

    def pull(self, state: State, d: Tensor) -> dict[str, Tensor]:
        maps, kept = self.drives[state.name]
        with torch.no_grad():
            found = maps.pull({**kept, COTANGENT: d})
        return {n: found[pulled(n)] for n in state.drive.sources}

    def contrast(self, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor]) -> Gradients:
        total = _Total(self.bound, self.wanted)
        with torch.no_grad():
            for state in self.bound.block.states:
                total.add(-self.bound.layer_weights[state.name], self._directional(state, difference, mean))
        return total.gradients

    def _directional(
        self, state: State, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor]
    ) -> dict[Key, Tensor]:
        """The gradient of ``<D_m, f_m(s* + h)> + <s_m* + h_m, J_m D>`` in the wanted inputs and weights of one state's drive."""
        n, sources, free = state.name, _sources(state, self.states), self.states[state.name]
        read, keys = _read(self.bound, state), _wanted(state.drive, self.wanted)
        code = self.maps.contrasts(state, read, sources, free, keys, bool(mean))
        values = {**read.tensors, **_by(source, sources), FREE: free, COTANGENT: difference[n]}
        values |= {moved(m): difference[m] for m in sources}
        if mean:
            values |= {OFFSET: mean[n], **{offset(m): mean[m] for m in sources}}
        return code(values)


class _Total:
    """Gradients summed over the states of a block, zero to begin with."""

    def __init__(self, bound: BoundBlock, wanted: Sequence[str]):
        self._like = {n: bound.inputs[n] if n in bound.inputs else bound.weights[n] for n in wanted}
        self._found: Gradients = {}

    def add(self, factor: float, found: Mapping[Key, Tensor]) -> None:
        for key, g in found.items():
            name = key.path if isinstance(key, Weight) else str(key)
            self._found[name] = self._found[name].add(g, alpha=factor) if name in self._found else factor * g

    @property
    def gradients(self) -> Gradients:
        return {n: self._found[n] if n in self._found else torch.zeros_like(v) for n, v in self._like.items()}


def _read(bound: BoundBlock, state: State) -> Read:
    return Read.of(state.drive, bound.inputs, bound.weights)


def _sources(state: State, states: Mapping[str, Tensor]) -> States:
    return {n: states[n].detach() for n in state.drive.sources}


def _by(key: Callable[[str], Key], values: Mapping[str, Tensor]) -> dict[Key, Tensor]:
    return {key(n): v for n, v in values.items()}


def _wanted(coupling: Coupling, names: Sequence[str]) -> tuple[Key, ...]:
    read = {*coupling.inputs, *coupling.weights}
    return tuple(key_of(coupling, n) for n in names if n in read)


# --- what a code depends on ------------------------------------------------------------------------------


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


__all__ = ["Explicit", "ExplicitLinearisation"]
