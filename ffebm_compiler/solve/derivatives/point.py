"""A coupling at given values: f, and the derivatives of it, each term's value being computed when it is first read.

f(s, x; theta),     J d,     J^T c,     d/du [<a, f> + <b, J d>]    for u among states, inputs and weights
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ir import Operand, Operation, State, Term, Weight
from ..binding import BoundBlock, States
from .plan import Link, Plan, plan_of

Cotangents = dict[Operand, Tensor]
"""Of sources, inputs, weights and terms."""


class CallAt:
    """A term's call at a point, which knows of none: it would be freed late, being in a circle."""

    __slots__ = ("_point", "_term")

    def __init__(self, point: Point, term: Term):
        self._point, self._term = point, term

    @property
    def notes(self) -> dict[Any, Any]:
        return self._point.notes.setdefault(self._term.name, {})

    @property
    def operation(self) -> Operation:
        return self._term.operation

    @property
    def arity(self) -> int:
        return len(self._term.operands)

    def value(self, i: int) -> Any:
        return self._point.value(self._term.operands[i])

    def shape(self, i: int) -> torch.Size:
        return self._point.shape(self._term.operands[i])


class Point:
    """A coupling at given values.

    Args:
        values: its sources and inputs, by name.
        weights: its weights, by path.
        fixed: what is known of terms that depend on no source; what is found of them is added.
    """

    def __init__(
        self, plan: Plan, values: Mapping[str, Any], weights: Mapping[str, Tensor], fixed: dict[str, Any] | None = None
    ):
        self.plan, self.weights = plan, weights
        self.fixed: dict[str, Any] = {} if fixed is None else fixed
        self._sources = values
        self._values: dict[str, Any] = dict(values)
        self.notes: dict[str, dict[Any, Any]] = {}

    def value(self, operand: Operand) -> Any:
        if operand is None:
            return None
        if isinstance(operand, Weight):
            return self.weights[operand.path]
        if operand in self._values:
            return self._values[operand]
        if operand not in self.fixed:
            self._evaluate(operand)
        return self._values[operand] if operand in self._values else self.fixed[operand]

    def _evaluate(self, name: str) -> None:
        for term in self.plan.before(name):
            known = self._values if term.name in self.plan.varying else self.fixed
            if term.name not in known:
                known[term.name] = self.plan.derivatives[term.name].forward(CallAt(self, term))

    def shape(self, operand: Operand) -> torch.Size:
        if isinstance(operand, str) and operand in self.plan.shapes:
            return self.plan.shapes[operand]
        value = self.value(operand)
        return value.shape if isinstance(value, Tensor) else torch.Size()  # a number may be given for a tensor

    @property
    def f(self) -> Tensor:
        f: Tensor = self.value(self.plan.coupling.output)
        return f

    def forget(self) -> None:
        """What no transpose reads."""
        kept = self.plan.kept
        self._values = {n: v for n, v in self._values.items() if n in kept or n not in self.plan.terms}

    @property
    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        held = [*self._values.values(), *self.fixed.values(), *self.weights.values()]
        return [*(v for v in held if isinstance(v, Tensor)), *_tensors(self.notes)]

    def moved_to(self, sources: Mapping[str, Tensor]) -> Point:
        """The same inputs and weights at other states."""
        return Point(self.plan, {**self._sources, **sources}, self.weights, self.fixed)

    def push(self, d: Mapping[str, Tensor], links: Sequence[Link] | None = None) -> dict[str, Tensor]:
        """How far every term moves when sources do, the output by ``J d``; nothing for those that stay.

        Args:
            links: the terms that are asked for; all by default.
        """
        moves = dict(d)
        for link in self.plan.ahead if links is None else links:
            moved = {i: moves[o] for i, o in link.operands.items() if o in moves}
            if moved:
                moves[link.term.name] = link.derivative.push(CallAt(self, link.term), moved)
        return moves

    def pull(self, c: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """``J^T c`` into sources."""
        found = self.back(self.plan.back(tuple(wanted)), {self.plan.coupling.output: c})
        return {n: found[n] for n in wanted if n in found}

    def back(
        self,
        links: Sequence[Link],
        first: Mapping[str, Tensor],
        moves: Mapping[str, Tensor] | None = None,
        second: Cotangents | None = None,
    ) -> Cotangents:
        """The gradient of ``<a, f> + <b, J d>`` in every operand on the way.

        Args:
            links: the way, from the output on.
            first: a, of the output.
            moves: what :meth:`push` gives for d.
            second: the gradient of ``<b, f>`` in every term.
        """
        found: Cotangents = {}
        found.update(first)
        for link in links:
            term, wanted = link.term, link.operands
            call = CallAt(self, term)
            if term.name in found:
                _add(found, wanted, link.derivative.pull(call, found[term.name], wanted.keys()))
            if moves and second and link.bends and term.name in second:
                moved = {i: moves[o] for i, o in enumerate(term.operands) if isinstance(o, str) and o in moves}
                if moved:
                    _add(found, wanted, link.derivative.bend(call, moved, second[term.name], wanted.keys()))
        return found


def _tensors(value: Any) -> Iterator[Tensor]:
    """In a nest of containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for v in value.values() if isinstance(value, dict) else value:
            yield from _tensors(v)


def _add(found: Cotangents, operands: Mapping[int, Operand], parts: Mapping[int, Tensor]) -> None:
    for i, part in parts.items():
        o = operands[i]
        found[o] = found[o] + part if o in found else part


def without_routed(bound: BoundBlock, known: Mapping[str, Point]) -> dict[str, Point]:
    """What is known of states whose drives stay the same when winners are held."""
    same = {s.name for s in bound.block.states if not s.drive.is_routed}
    return {n: v for n, v in known.items() if n in same}


def into(sources: Mapping[str, Tensor], pulled: Mapping[str, Tensor]) -> States:
    """What was pulled into each source, zero where nothing was."""
    return {n: pulled[n] if n in pulled else torch.zeros_like(s) for n, s in sources.items()}


def point_of(bound: BoundBlock, state: State, sources: States, fixed: dict[str, Any] | None = None) -> Point:
    """The coupling of a state, where its sources have these values."""
    coupling = state.drive
    values = {**{n: bound.inputs[n] for n in coupling.inputs}, **sources}
    weights = {p: bound.weights[p] for p in coupling.weights}
    return Point(plan_of(coupling, values, weights, bound.fixed), values, weights, fixed)


def sources_of(state: State, states: Mapping[str, Tensor]) -> States:
    return {n: states[n].detach() for n in state.drive.sources}
