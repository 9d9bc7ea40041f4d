"""The table of rules: every operation that has an energy, and the look-up of a call in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import fx, nn

from .arithmetic import ARITHMETIC_RULES
from .norms import NORM_RULES
from .pooling import POOLING_RULES
from .potentials import POTENTIAL_RULES
from .rule import Rule
from .shapes import SHAPE_RULES
from .smooth import SMOOTH_RULES
from .weighted import WEIGHTED_RULES


@dataclass(frozen=True)
class Rules:
    """Rules in order of precedence: the first that matches a call reads it."""

    rules: tuple[Rule, ...]

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def extended(self, rules: Iterable[Rule]) -> Rules:
        """These rules with others before them: a user's rule wins over a built-in one."""
        return Rules((*rules, *self.rules))

    def find(self, node: fx.Node, module: nn.Module | None) -> Rule | None:
        """The rule for a call, or None."""
        return next((rule for rule in self.rules if matches(rule, node, module)), None)


def matches(rule: Rule, node: fx.Node, module: nn.Module | None) -> bool:
    if node.op == "call_module":
        # a subclass with a forward of its own computes something else
        return any(isinstance(module, m) and type(module).forward is m.forward for m in rule.modules)
    if node.op == "call_method":
        return node.target in rule.methods
    return node.op == "call_function" and any(node.target is f for f in rule.functions)


RULES = Rules(
    (*POTENTIAL_RULES, *SMOOTH_RULES, *WEIGHTED_RULES, *POOLING_RULES, *NORM_RULES, *SHAPE_RULES, *ARITHMETIC_RULES)
)
