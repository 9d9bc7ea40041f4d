"""A coupling: the pre-activation ``f(s, x; theta)`` of a state, as a small graph of operations.

Operations are affine in the values they read (or smooth, for activations that have no convex potential), so
the interaction ``<s, f>`` is what an array of conductances computes in one direction, and the
vector-Jacobian product of f what it computes in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import FFEBMError
from .kind import OTHER, Kind
from .origin import Origin, failed_layer
from .portable import Plain


@dataclass(frozen=True)
class Weight:
    """A tensor of the user's model, by its attribute path: ``features.0.weight``."""

    path: str


Operand = str | Weight | None
"""What an operation reads: a value by name, a weight by path, or nothing (an absent bias)."""


@dataclass(frozen=True)
class Operation(Plain):
    """One operation, in the field's words, that a backend may execute, map to a crossbar or print.

    Attributes:
        name: how it is called where it is shown: ``"conv2d"``, ``"linear"``, ``"add"``, ...
        function: ``function(*operands, **options)``.
        options: everything that is not an operand: stride, padding, ...
        text, tex: how it prints; ``{0}``, ``{1}`` are the operands, ``{layer}`` the user's name.
        weighted: has a weight matrix, and counts towards a block's size.
        linear: affine in its value operands (a smooth activation or a pooling maximum is not).
        routed: piecewise linear, with a choice that depends on the state (max pooling).
        choose: of a routed one, ``choose(*operands, **options)``: the winners, as indices.
        take: of a routed one, ``take(operand, winners)``: the value that they give.
        kind: what it is, for whoever treats operations apart.
    """

    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    text: str = "{layer}({0})"
    tex: str = r"\mathrm{{{layer}}}({0})"
    weighted: bool = False
    linear: bool = True
    routed: bool = False
    choose: Callable[..., Tensor] | None = None
    take: Callable[[Tensor, Tensor], Tensor] | None = None
    kind: Kind = OTHER

    def held(self) -> Operation:
        """This routed operation with its winners given: linear, and reads them as a further operand."""
        assert self.take is not None, f"{self.name} is not routed"
        return replace(self, function=self.take, options={}, linear=True, routed=False)

    def __call__(self, *operands: Any) -> Any:
        return self.function(*operands, **self.options)


@dataclass(frozen=True)
class Term(Plain):
    """``name = operation(*operands)``: one line of a coupling, in single static assignment."""

    name: str
    operation: Operation
    operands: tuple[Operand, ...]
    origin: Origin

    def evaluate(self, values: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
        read = self._read(values, weights)
        return self._guarded(read, lambda: self.operation(*read))

    def routed(self, values: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The value of a routed operation, and its winners."""
        read, operation = self._read(values, weights), self.operation
        assert operation.choose is not None, f"{operation.name} is not routed"
        assert operation.take is not None, f"{operation.name} is not routed"
        choose = partial(operation.choose, *read, **operation.options)
        winners: Tensor = self._guarded(read, choose)
        return operation.take(read[0], winners), winners

    def _read(self, values: Mapping[str, Any], weights: Mapping[str, Tensor]) -> list[Any]:
        return [weights[o.path] if isinstance(o, Weight) else None if o is None else values[o] for o in self.operands]

    def _guarded(self, read: list[Any], function: Callable[[], Any]) -> Any:
        """The function's value, or an error that names the user's layer."""
        try:
            return function()
        except (RuntimeError, TypeError, ValueError, IndexError) as failure:
            if isinstance(failure, (torch.OutOfMemoryError, FFEBMError)):
                raise
            raise failed_layer(self.origin, failure, read) from failure

    def held(self) -> Term:
        return Term(self.name, self.operation.held(), (*self.operands, winners_of(self.name)), self.origin)


def winners_of(term: str) -> str:
    """The name of the input that holds the winners of a routed term."""
    return f"{term}.winners"


@dataclass(frozen=True)
class Coupling(Plain):
    """``f``: terms in order, the last needed value being ``output``.

    Attributes:
        terms: the operations; empty when f is a state or an input itself.
        output: the name of the value that is f.
        sources: states of the block that f reads, in order of first use.
        inputs: values from outside the block that f reads.
        weights: paths of the weights that f reads.
    """

    terms: tuple[Term, ...]
    output: str
    sources: tuple[str, ...]
    inputs: tuple[str, ...]
    weights: tuple[str, ...]

    def evaluate(self, values: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Tensor:
        """f, given every source and input by name; a term already in ``values`` is not run again."""
        known = dict(values)
        for term in self.terms:
            if term.name not in known:
                known[term.name] = term.evaluate(known, weights)
        f: Tensor = known[self.output]
        return f

    def routed(self, values: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """f, and the winners of each routed term by :func:`winners_of`; terms already in ``values`` route nothing."""
        known, found = dict(values), dict[str, Tensor]()
        for term in self.terms:
            if term.name in known:
                continue
            if term.operation.routed:
                known[term.name], found[winners_of(term.name)] = term.routed(known, weights)
            else:
                known[term.name] = term.evaluate(known, weights)
        f: Tensor = known[self.output]
        return f, found

    def winners(self, values: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The winners of each routed term, as :meth:`routed` gives them; what follows the last one is not computed."""
        routed = [i for i, t in enumerate(self.terms) if t.operation.routed]
        if not routed:
            return {}
        terms = self.terms[: routed[-1] + 1]
        return replace(self, terms=terms, output=terms[-1].name).routed(values, weights)[1]

    def held(self, winners: Collection[str]) -> Coupling:
        """This coupling with those winners given from outside; one that is held already stays as it is."""
        names = [n for t in self.terms if t.operation.routed and (n := winners_of(t.name)) in winners]
        terms = tuple(t.held() if t.operation.routed and winners_of(t.name) in names else t for t in self.terms)
        return replace(self, terms=terms, inputs=(*self.inputs, *names))

    @cached_property
    def is_linear(self) -> bool:
        return all(t.operation.linear or t.operation.routed for t in self.terms)

    @cached_property
    def is_routed(self) -> bool:
        return any(t.operation.routed for t in self.terms)

    @cached_property
    def layers(self) -> tuple[Term, ...]:
        """The weighted terms."""
        return tuple(t for t in self.terms if t.operation.weighted)
