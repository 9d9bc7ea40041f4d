"""A block's free phase and nudged phases as sequences of plain operations, by the derivatives of its couplings' operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ...ir import Operand, State, Weight
from ..binding import BoundBlock, States
from .interface import Drive, Gradients, Increment, around, differences_from, tangents_at
from .plan import weight_keys
from .point import Cotangents, Point, into, point_of, sources_of, without_routed
from .sums import is_apart


@dataclass(frozen=True)
class Sweeping:
    """A block's drives and their transposes during one relaxation.

    What depends on no state is computed once; a drive keeps of its terms what its transpose reads.
    """

    bound: BoundBlock
    _known: dict[str, Point] = field(default_factory=dict, repr=False)

    def leaf(self, state: Tensor) -> Tensor:
        return state.detach()

    def drive(self, state: State, leaves: States, f: Tensor | None = None) -> Drive:
        sources = sources_of(state, leaves)
        with torch.no_grad():
            point = self._at(state, sources)
            if f is not None:
                return Drive(f, sources, point)
            f = point.f
            point.forget()
            return Drive(f, sources, point, is_own=is_apart(f, point.tensors))

    def _at(self, state: State, sources: States) -> Point:
        """The coupling where its sources have these values."""
        known = self._known.get(state.name)
        if known is None:
            known = self._known[state.name] = point_of(self.bound, state, sources)
        return known.moved_to(sources)

    def pull(self, state: State, drive: Drive, cotangent: Tensor) -> States:
        if not drive.sources:
            return {}
        with torch.no_grad():
            return into(drive.sources, drive.kept.pull(cotangent, state.drive.sources))

    def holding(self, winners: Mapping[str, Tensor]) -> Sweeping:
        return Sweeping(self.bound.holding(winners), without_routed(self.bound, self._known))


class ExplicitLinearisation:
    """The interaction of a block around its free equilibrium; the same as :class:`~.linearisation.Linearisation`."""

    def __init__(self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()):
        self.bound, self.wanted = bound, tuple(wanted)
        self.states = {k: v.detach() for k, v in states.items()}
        self._points: dict[str, Point] = {}
        self._free: dict[str, Cotangents] = {}

    def _point(self, state: State) -> Point:
        """A coupling at the free states."""
        if state.name not in self._points:
            self._points[state.name] = point_of(self.bound, state, sources_of(state, self.states))
        return self._points[state.name]

    def _pulled(self, state: State) -> Cotangents:
        """The gradient of ``<c*, f>`` in the sources of a coupling and in each term that varies."""
        if state.name not in self._free:
            point = self._point(state)
            output = {point.plan.coupling.output: self.states[state.name]}
            self._free[state.name] = point.back(point.plan.back(state.drive.sources), output)
        return self._free[state.name]

    @cached_property
    def _activations(self) -> States:
        with torch.no_grad():
            states = self.bound.block.states
            back = {s.name: {n: p for n, p in self._pulled(s).items() if n in s.drive.sources} for s in states}
            return around(self.bound, {s.name: self._point(s).f for s in states}, back)

    @cached_property
    def differences(self) -> Mapping[str, Increment]:
        return differences_from(self.bound, self._activations)

    @cached_property
    def tangents(self) -> Mapping[str, Increment]:
        return tangents_at(self.bound, self.states, lambda: self._activations)

    def push(self, state: State, d: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
        coupling = state.drive
        moving = {n: d[n] for n in coupling.sources if n in d}
        if not moving:
            return None, {}
        with torch.no_grad():
            point = self._point(state)
            moves = point.push(moving)
            ahead = moves[coupling.output]
            if coupling.is_linear:
                return ahead, {}
            bent = point.back(point.plan.back(coupling.sources), {}, moves, self._pulled(state))
        return ahead, {n: bent[n] for n in coupling.sources if n in bent}

    def pull(self, state: State, d: Tensor) -> dict[str, Tensor]:
        if not state.drive.sources:
            return {}
        with torch.no_grad():
            sources = {n: self.states[n] for n in state.drive.sources}
            return into(sources, self._point(state).pull(d, state.drive.sources))

    def contrast(self, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor], scale: float = 1.0) -> Gradients:
        total = Total(self.bound, self.wanted)
        with torch.no_grad():
            for state in self.bound.block.states:
                factor = -scale * self.bound.layer_weights[state.name]
                for found in self._directional(state, difference, mean):
                    total.add(factor, found)
        return total.gradients

    def gradient(self, state: State, cotangent: Tensor) -> Gradients:
        wanted = weight_keys(state.drive, self.wanted)
        with torch.no_grad():
            found = self._gradient(state, wanted, cotangent)
        return {name_of(key): g for key, g in found.items()}

    def _directional(
        self, state: State, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor]
    ) -> list[Cotangents]:
        """Gradients whose sum is that of ``<D_m, f_m(s*) + J_m h> + <s_m* + h_m, J_m D>`` in the wanted inputs and weights of one state's drive."""
        n, free = state.name, self.states[state.name]
        wanted = weight_keys(state.drive, self.wanted)
        if not wanted:
            return []
        found = [self._gradient(state, wanted, difference[n], difference, free + mean[n] if mean else free)]
        return [*found, self._gradient(state, wanted, None, mean, difference[n])] if mean else found

    def _gradient(
        self,
        state: State,
        wanted: tuple[Operand, ...],
        a: Tensor | None,
        d: Mapping[str, Tensor] | None = None,
        b: Tensor | None = None,
    ) -> Cotangents:
        """Of ``<a, f> + <b, J d>``."""
        point, output = self._point(state), state.drive.output
        first, plan = {} if a is None else {output: a}, point.plan
        moving = {n: d[n] for n in state.drive.sources if n in d} if d else {}
        moves = point.push(moving, plan.ahead_of(wanted))
        second = {} if b is None or not moves else point.back(plan.back(wanted, inner=True), {output: b})
        found = point.back(plan.back(wanted), first, moves, second)
        return {k: found[k] for k in wanted if k in found}


class Total:
    """Gradients summed over the states of a block, zero to begin with."""

    def __init__(self, bound: BoundBlock, wanted: Sequence[str]):
        self._like = {n: bound.inputs[n] if n in bound.inputs else bound.weights[n] for n in wanted}
        self._found: Gradients = {}

    def add(self, factor: float, found: Mapping[Operand, Tensor]) -> None:
        for key, g in found.items():
            name = name_of(key)
            if name in self._found:
                self._found[name] = self._found[name].add(g, alpha=factor)
            else:
                self._found[name] = g if factor == 1.0 else factor * g

    @property
    def gradients(self) -> Gradients:
        return {n: self._found[n] if n in self._found else torch.zeros_like(v) for n, v in self._like.items()}


def name_of(key: Operand) -> str:
    """The name of an input, or the path of a weight."""
    return key.path if isinstance(key, Weight) else str(key)
