"""What a rule is: how one operation of PyTorch reads as a piece of an energy.

A rule names the spellings it matches (module classes, functions, methods) and *reads* a call: it returns a
:class:`Reading`, or a :class:`Refusal` with its reason, and the operation then stays digital. What it reads is of a
:class:`~.ir.Kind` made beside the rule, which says all that others need, so adding an operation touches one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from ..ir import Kind, Operation, Potential, Weight
from .forms import Spellings
from .option_types import REQUIRED, OptionType


class Role(Enum):
    """What an operation does in an energy."""

    COUPLING = "coupling"
    """Part of a pre-activation f: affine in the values it reads."""
    POTENTIAL = "potential"
    """A monotone activation: the gradient of the conjugate of a convex G. Its output is a state."""
    SMOOTH = "smooth"
    """An activation without a convex potential, inside the interaction; its pre-activation is a state."""
    NORM = "norm"
    """An affine coupling while its running statistics are held (batch norm)."""
    IDENTITY = "identity"
    """Passes its first operand through; dropped."""


@dataclass(frozen=True)
class Reading:
    """How a call reads.

    Attributes:
        operation: what it computes, for couplings, norms and smooth activations.
        potential: for activations with a potential.
        operands: in the operation's order: a node that may be a state, a weight, or None.
        given: nodes among ``operands`` that must be known before the block relaxes (a weight that is
            computed, a size).
        keeps_batch: dimension 0 of the result is dimension 0 of the first operand, whatever the number of dimensions.
        batch_size: of the nodes ``given``, the one whose number is dimension 0 of the result.
    """

    operands: tuple[fx.Node | Weight | None, ...]
    operation: Operation | None = None
    potential: Potential | None = None
    given: frozenset[fx.Node] = frozenset()
    keeps_batch: bool = True
    batch_size: fx.Node | None = None

    @property
    def weighted(self) -> bool:
        return self.operation is not None and self.operation.weighted


@dataclass(frozen=True)
class Refusal:
    """Why an operation has no energy and stays digital."""

    reason: str


@dataclass(frozen=True)
class Call:
    """A call of the user's model, whichever way it was spelled.

    Attributes:
        node: the traced node.
        module: the called module, or None for functions and methods.
        path: the module's path in the model.
        arguments: the call's arguments, by the names of the rule's signature.
    """

    node: fx.Node
    module: nn.Module | None
    path: str | None
    arguments: dict[str, Any]
    weights: Callable[[fx.Node], Weight | None]

    def option(self, name: str, default: Any = REQUIRED) -> Any:
        """A constant of the call: the module's attribute, the argument, or the default."""
        if self.module is not None and hasattr(self.module, name):
            return getattr(self.module, name)
        if name in self.arguments:
            return self.arguments[name]
        if default is REQUIRED:
            raise LookupError(f"{self.node.name} gives no {name}")
        return default

    def options(self, types: Mapping[str, OptionType]) -> dict[str, Any]:
        """The constants of those names, as the options of an operation."""
        return options(**{name: self.option(name, type_.default) for name, type_ in types.items()})

    def value(self, name: str = "input") -> Any:
        """The node (or constant) passed as ``name``."""
        return self.arguments[name]

    def operand(self) -> fx.Node | Weight | None:
        """The first argument as an operand."""
        return self.as_operand(self.value())

    def weight(self, name: str) -> fx.Node | Weight | None:
        """The module's own tensor, or the operand passed under that name (a Weight if it is one)."""
        if self.module is not None:
            return Weight(f"{self.path}.{name}".lstrip(".")) if _holds(self.module, name) else None
        return self.as_operand(self.arguments.get(name))

    def as_operand(self, value: Any) -> fx.Node | Weight | None:
        if isinstance(value, fx.Node):
            return self.weights(value) or value
        return None

    def constants(self, *names: str) -> bool:
        """Whether these arguments are plain constants rather than computed values."""
        return not any(_has_node(self.arguments.get(n)) for n in names)


def _holds(module: nn.Module, name: str) -> bool:
    """Whether the module has that tensor. A parametrized one is not computed: a spectral norm steps each time."""
    return parametrize.is_parametrized(module, name) or getattr(module, name, None) is not None


def _has_node(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(value, lambda n: found.append(n) or n)  # type: ignore[func-returns-value]
    return bool(found)


def nodes_of(*operands: fx.Node | Weight | None) -> frozenset[fx.Node]:
    return frozenset(o for o in operands if isinstance(o, fx.Node))


@dataclass(frozen=True)
class Rule:
    """One operation that has an energy.

    Attributes:
        name: the operation in the field's words.
        role: what it does in an energy.
        read: turns a call into a reading or a refusal.
        modules: module classes; a subclass matches if it keeps the class's own ``forward``.
        functions: functions, including ``torch.ops.aten`` overloads that ``torch.export`` writes.
        methods: names of tensor methods.
        signature: the argument names of the functions and methods, in order.
        summary: one line for the table of supported operations.
        examples: modules with an input shape each, which the generic tests run.
        forms: the kinds that it reads, each with how it is made again from its options, as bundles do.
        potentials: further ones that the generic tests check, besides those of the examples.
    """

    name: str
    role: Role
    read: Callable[[Call], Reading | Refusal]
    summary: str
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    signature: tuple[str, ...] = ("input",)
    examples: tuple[tuple[Callable[[], nn.Module], tuple[int, ...]], ...] = ()
    forms: Mapping[Kind, Spellings[Any]] = field(default_factory=dict)
    potentials: tuple[Potential, ...] = ()


def options(**values: Any) -> dict[str, Any]:
    """The options of an operation; lists become tuples, so that they are constants."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
