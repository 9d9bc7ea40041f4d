"""The table of rules: every operation that has an energy, and the look-up of a call in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx, nn

from ..ir import IDENTITY, Potential
from .arithmetic import ARITHMETIC_OPERATIONS, ARITHMETIC_RULES
from .exponential import EXPONENTIAL_POTENTIALS, EXPONENTIAL_RULES
from .identities import IDENTITY_RULES
from .norms import NORM_OPERATIONS, NORM_RULES
from .piecewise import PIECEWISE_POTENTIALS, PIECEWISE_RULES
from .pooling import POOLING_OPERATIONS, POOLING_RULES
from .remake import Remakes, exactly
from .resizing import RESIZING_OPERATIONS, RESIZING_RULES
from .rule import Call, Reading, Role, Rule
from .shapes import SHAPE_OPERATIONS, SHAPE_RULES
from .smooth import SMOOTH_OPERATIONS, SMOOTH_RULES
from .weighted import WEIGHTED_OPERATIONS, WEIGHTED_RULES


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
        """The rule for a call of a module; an object with a forward of its own computes something else than its class."""
        return None if "forward" in vars(module) else self._of_class(type(module))

    def layers_of_own(self, network: nn.Module) -> tuple[str, ...]:
        """The paths of the layers that a rule of the user's reads as one call, and which are not to be traced through."""
        own = Rules(self.own)
        return tuple(path for path, module in network.named_modules() if own.of_module(module) is not None)

    def _of_class(self, kind: type[Any]) -> Rule | None:
        if kind not in self._of_classes:
            self._of_classes[kind] = next((r for r in self.rules if any(_computes(kind, m) for m in r.modules)), None)
        return self._of_classes[kind]

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


def _computes(kind: type[Any], base: type[nn.Module]) -> bool:
    """Whether a class computes what its base does: a subclass with another forward computes something else."""
    return issubclass(kind, base) and kind.forward is base.forward


RULES = Rules(
    (
        *PIECEWISE_RULES,
        *EXPONENTIAL_RULES,
        *SMOOTH_RULES,
        *WEIGHTED_RULES,
        *POOLING_RULES,
        *NORM_RULES,
        *SHAPE_RULES,
        *RESIZING_RULES,
        *IDENTITY_RULES,
        *ARITHMETIC_RULES,
    )
)


REMAKES = Remakes(
    operations={
        **WEIGHTED_OPERATIONS,
        **POOLING_OPERATIONS,
        **NORM_OPERATIONS,
        **SHAPE_OPERATIONS,
        **RESIZING_OPERATIONS,
        **ARITHMETIC_OPERATIONS,
        **SMOOTH_OPERATIONS,
    },
    potentials={"identity": exactly(IDENTITY), **PIECEWISE_POTENTIALS, **EXPONENTIAL_POTENTIALS},
)
"""What the rules above read, made again from its name and options."""


def example_potential(rule: Rule) -> Potential | None:
    """The potential that a rule reads from its own first example; None for couplings and for rules without one."""
    if rule.role is not Role.POTENTIAL:
        return None
    graph = fx.Graph()
    value = graph.placeholder("a")
    if rule.examples:
        module = rule.examples[0][0]()
        call = Call(graph.call_module("example", (value,)), module, "example", {"input": value}, lambda node: None)
    else:
        call = Call(graph.call_function(rule.functions[0], (value,)), None, None, {"input": value}, lambda node: None)
    reading = rule.read(call)
    return reading.potential if isinstance(reading, Reading) else None
