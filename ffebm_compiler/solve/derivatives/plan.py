"""What is known of a coupling once it has run at given shapes: all that its derivatives need to know before they run.

Nothing is traced or differentiated for it. A plan holds the coupling with its norms folded, the shape of each term, and which terms
depend on states; the derivatives themselves are the operations' own (:mod:`.transposes`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ...ir import Coupling, Operand, Term, Weight
from .norm_folding import folded
from .operation import Derivative
from .table import derivative_of

PRECISE = (torch.float32, torch.float64)
"""Types whose weights may be rounded once more."""

KNOWN_SHAPES = 32
"""A coupling remembers the plans of at most so many shapes; the oldest is forgotten first."""

Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class Link:
    """A term, its derivatives, and the operands that matter, by their positions."""

    term: Term
    derivative: Derivative
    operands: Mapping[int, Operand]

    @cached_property
    def bends(self) -> bool:
        """Whether its Jacobian depends on one of the operands."""
        bends = self.derivative.bends
        return bends is None or any(i in bends for i in self.operands)


@dataclass(frozen=True)
class Plan:
    """A coupling at given shapes.

    Attributes:
        coupling: its held norms folded.
        shapes: of what each term of the unfolded coupling gives.
    """

    coupling: Coupling
    shapes: Shapes

    @cached_property
    def terms(self) -> Mapping[str, Term]:
        """By name, in order."""
        return {t.name: t for t in self.coupling.terms}

    @cached_property
    def varying(self) -> frozenset[str]:
        """The sources, and the terms that depend on one."""
        found = set(self.coupling.sources)
        for t in self.coupling.terms:
            if any(o in found for o in t.operands if isinstance(o, str)):
                found.add(t.name)
        return frozenset(found)

    @cached_property
    def derivatives(self) -> Mapping[str, Derivative]:
        """Of each term."""
        return {t.name: derivative_of(t.operation, self._moving(t).keys()) for t in self.coupling.terms}

    def _moving(self, term: Term) -> dict[int, Operand]:
        return {i: o for i, o in enumerate(term.operands) if isinstance(o, str) and o in self.varying}

    @cached_property
    def kept(self) -> frozenset[str]:
        """The varying terms whose values transposes read."""
        links = ((link, link.derivative.reads) for link in self.ahead)
        return frozenset(
            str(o)
            for link, reads in links
            for i, o in enumerate(link.term.operands)
            if o in self.varying and (reads is None or i in reads)
        )

    @cached_property
    def ahead(self) -> tuple[Link, ...]:
        """The varying terms in order, with the operands that vary."""
        links = (Link(t, self.derivatives[t.name], self._moving(t)) for t in self.coupling.terms)
        return tuple(link for link in links if link.operands)

    def ahead_of(self, wanted: tuple[Operand, ...]) -> tuple[Link, ...]:
        """The varying terms whose moves bend what is between the output and what is wanted."""
        if wanted not in self._ahead:
            bent = (link.term for link in self.back(wanted) if link.bends)
            read = {o for term in bent for o in term.operands}
            for link in reversed(self.ahead):
                read |= set(link.operands.values()) if link.term.name in read else set()
            self._ahead[wanted] = tuple(link for link in self.ahead if link.term.name in read)
        return self._ahead[wanted]

    def before(self, name: str) -> tuple[Term, ...]:
        """A term and all that it is computed from, in order."""
        if name not in self._before:
            needed = {name}
            for t in reversed(self.coupling.terms):
                if t.name in needed:
                    needed |= {o for o in t.operands if isinstance(o, str)}
            self._before[name] = tuple(t for t in self.coupling.terms if t.name in needed)
        return self._before[name]

    def back(self, wanted: tuple[Operand, ...], inner: bool = False) -> tuple[Link, ...]:
        """The terms between the output and what is wanted, from the output on, each with the operands on the way there.

        Args:
            inner: through terms that vary alone, and no further than to the last one.
        """
        if (wanted, inner) not in self._back:
            self._back[wanted, inner] = self._way(wanted, inner)
        return self._back[wanted, inner]

    def _way(self, wanted: tuple[Operand, ...], inner: bool) -> tuple[Link, ...]:
        reached: set[Operand] = set(wanted)
        links: list[Link] = []
        for t in self.coupling.terms:
            operands = {i: o for i, o in enumerate(t.operands) if o is not None and o in reached}
            if not operands:
                continue
            reached.add(t.name)
            if inner:
                operands = {i: o for i, o in operands.items() if o in self.terms and o in self.varying}
            if operands:
                links.append(Link(t, self.derivatives[t.name], operands))
        return tuple(reversed(links))

    @cached_property
    def _ahead(self) -> dict[tuple[Operand, ...], tuple[Link, ...]]:
        return {}

    @cached_property
    def _before(self) -> dict[str, tuple[Term, ...]]:
        return {}

    @cached_property
    def _back(self) -> dict[tuple[tuple[Operand, ...], bool], tuple[Link, ...]]:
        return {}


_PLANS: dict[int, tuple[ref[Coupling], dict[Any, Plan]]] = {}
"""By the identity of each coupling that lives: its options can't be hashed."""


def plan_of(
    coupling: Coupling,
    values: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    known: Mapping[str, Any] = MappingProxyType({}),
) -> Plan:
    """The plan of a coupling at the shapes and types of what it reads.

    Args:
        values: every source and input, by name.
        weights: every weight, by path.
        known: terms that have been computed from these already.
    """
    place, plans = id(coupling), _PLANS.get(id(coupling))
    if plans is None or plans[0]() is not coupling:
        plans = _PLANS[place] = ref(coupling, partial(_forget, _PLANS, place)), {}
    read = [*(values[n] for n in coupling.sources), *(values[n] for n in coupling.inputs)]
    read += [weights[p] for p in coupling.weights]
    key = tuple([(v.shape, v.dtype) if isinstance(v, Tensor) else v for v in read])  # sizes as they are
    plan = plans[1].get(key)
    if plan is None:
        while len(plans[1]) >= KNOWN_SHAPES:
            plans[1].pop(next(iter(plans[1])))
        plan = plans[1][key] = _made(coupling, values, weights, known)
    return plan


def _forget(plans: dict[int, Any], place: int, _: object) -> None:
    plans.pop(place, None)


def _made(
    coupling: Coupling, values: Mapping[str, Any], weights: Mapping[str, Tensor], known: Mapping[str, Any]
) -> Plan:
    """By running the coupling, but for the terms that are known."""
    with torch.no_grad():
        found = dict(values)
        for t in coupling.terms:
            found[t.name] = known[t.name] if t.name in known else t.evaluate(found, weights)
    shapes = {t.name: v.shape for t in coupling.terms if isinstance(v := found[t.name], Tensor)}
    precise = all(weights[p].dtype in PRECISE for p in coupling.weights if weights[p].is_floating_point())
    own = replace(coupling)  # a plan that held the coupling itself would keep it alive
    return Plan(folded(own, {n: len(s) for n, s in shapes.items()}) if precise else own, shapes)


def weight_keys(coupling: Coupling, names: Collection[str]) -> tuple[Operand, ...]:
    """The wanted inputs and weights that a coupling reads."""
    read = {n: n for n in coupling.inputs} | {p: Weight(p) for p in coupling.weights}
    return tuple(read[n] for n in names if n in read)
