"""The table of rules: every operation that has an energy, and the look-up of a call in it.

Every module of this package that has a tuple ``RULES`` takes part: a file put here is all that a new operation needs.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from torch import fx, nn

from ..ir import IDENTITY, Kind, Operation, Options, Potential
from .forms import Given, Made, Spellings, constant, fitting
from .rule import Call, Reading, Role, Rule


@dataclass(frozen=True)
class Rules:
    """Rules in order of precedence: the first that matches a call reads it.

    Attributes:
        rules: all of them.
        own: those of the user's among them.
    """

    rules: tuple[Rule, ...]
    own: tuple[Rule, ...] = ()

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def extended(self, rules: Iterable[Rule]) -> Rules:
        """These rules with others before them: a user's rule wins over a built-in one."""
        given = tuple(rules)
        return Rules((*given, *self.rules), (*given, *self.own))

    def find(self, node: fx.Node, module: nn.Module | None) -> Rule | None:
        """The rule for a call, or None."""
        if node.op == "call_module":
            return None if module is None else self.of_module(module)
        if node.op == "call_method":
            return self._of_method.get(str(node.target))
        return self._of_function.get(id(node.target)) if node.op == "call_function" else None

    def of_module(self, module: nn.Module) -> Rule | None:
        """The rule for a call of a module; one whose object has a forward of its own is not of its class."""
        return None if "forward" in vars(module) else self._of_class(type(module))

    def layers_of_own(self, network: nn.Module) -> tuple[str, ...]:
        """The paths of the layers that a rule of the user's reads as one call: they are not traced through."""
        own = Rules(self.own)
        return tuple(path for path, module in network.named_modules() if own.of_module(module) is not None)

    def _of_class(self, class_: type[Any]) -> Rule | None:
        if class_ not in self._of_classes:
            matching = (r for r in self.rules if any(_computes(class_, m) for m in r.modules))
            self._of_classes[class_] = next(matching, None)
        return self._of_classes[class_]

    @cached_property
    def _of_classes(self) -> dict[type[Any], Rule | None]:
        return {}

    @cached_property
    def _of_method(self) -> dict[str, Rule]:
        return {name: rule for rule in reversed(self.rules) for name in rule.methods}

    @cached_property
    def _of_function(self) -> dict[int, Rule]:
        """By identity: a rule keeps its functions alive."""
        return {id(function): rule for rule in reversed(self.rules) for function in rule.functions}


def _computes(class_: type[Any], base: type[nn.Module]) -> bool:
    """Whether a class computes what its base does: a subclass with another forward computes something else."""
    return issubclass(class_, base) and class_.forward is base.forward


@dataclass(frozen=True)
class Forms:
    """The operations and potentials that can be made again from their options, by kind."""

    operations: Mapping[Kind, Spellings[Operation]]
    potentials: Mapping[Kind, Spellings[Potential]]

    def extended(self, rules: Iterable[Rule]) -> Forms:
        """These and those of other rules, which win over a kind of the same name."""
        operations, potentials = dict(self.operations), dict(self.potentials)
        for rule in rules:
            (potentials if rule.role is Role.POTENTIAL else operations).update(rule.forms)
        return Forms(operations, potentials)

    def operation_again(self, operation: Operation, given: Given) -> Operation | None:
        """What its kind and options make, for the operands that are given; None where they make nothing."""
        return _again(self.operations.get(operation.kind), operation.options, given)

    def potential_again(self, potential: Potential) -> Potential | None:
        return _again(self.potentials.get(potential.kind), potential.options)

    def operation_named(self, name: str) -> Spellings[Operation] | None:
        """By the name that stands in a file, which is that of its kind."""
        return _named(self.operations, name)

    def potential_named(self, name: str) -> Spellings[Potential] | None:
        return _named(self.potentials, name)


def _again(spellings: Spellings[Made] | None, options: Options, given: Given | None = None) -> Made | None:
    if spellings is None:
        return None
    form = fitting(spellings, options)
    return None if any(form.problems(options, given)) else form(options, given or ())


def _named(table: Mapping[Kind, Spellings[Made]], name: str) -> Spellings[Made] | None:
    return next((table[kind] for kind in [*table][::-1] if kind.name == name), None)


def _rules_of_this_package() -> Iterator[Rule]:
    package, _, this = __name__.rpartition(".")
    names = sorted(m.name for m in pkgutil.iter_modules(import_module(package).__path__) if m.name != this)
    for name in names:
        yield from getattr(import_module(f"{package}.{name}"), "RULES", ())


RULES = Rules(tuple(_rules_of_this_package()))

FORMS = Forms({}, {IDENTITY.kind: constant(IDENTITY)}).extended(RULES)
"""Those of the rules above."""


def example_potentials(rule: Rule) -> tuple[Potential, ...]:
    """The potentials that a rule reads from its own examples, or from its first function; and its further ones."""
    if rule.role is not Role.POTENTIAL:
        return ()
    graph = fx.Graph()
    value = graph.placeholder("a")
    arguments = {"input": value}
    calls = [
        Call(graph.call_module("example", (value,)), make(), "example", arguments, lambda node: None)
        for make, _ in rule.examples
    ] or [Call(graph.call_function(rule.functions[0], (value,)), None, None, arguments, lambda node: None)]
    readings = (rule.read(call) for call in calls)
    return (*(r.potential for r in readings if isinstance(r, Reading) and r.potential), *rule.potentials)
