"""How a call of the model becomes the values of its graph's placeholders, and the graph's output the model's result.

Data rather than closures: a converted model is pickled with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import TreeSpec

from ..ir.portable import Plain


def itself(output: Any) -> Any:
    """The result of a graph whose output is the model's own."""
    return output


@dataclass(frozen=True)
class NamedArguments:
    """By the names of the forward's parameters.

    Attributes:
        parameters: the forward's signature, without annotations.
        names: of the placeholders: ``x``, ``*rest``, ``**options``.
        fixed: the arguments that were traced at their default, which chooses the path through the model.
    """

    parameters: inspect.Signature
    names: tuple[str, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        bound = self.parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in self.fixed.items():
            given = bound.arguments[name]
            if given is not value and not (isinstance(value, (bool, str)) and given == value):
                raise TypeError(
                    f"argument {name!r} was {value!r} when the model was traced, and chooses the path through it; convert again with example_inputs= to trace another"
                )
        values = {_starred(p): bound.arguments[n] for n, p in self.parameters.parameters.items()}
        return tuple({**bound.arguments, **values}[n] for n in self.names)


def parameters_of(forward: Any) -> inspect.Signature:
    """The signature of a forward without its annotations, which may be anything."""
    signature = inspect.signature(forward)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return inspect.Signature(plain)


def _starred(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    return stars.get(parameter.kind, "") + parameter.name


@dataclass(frozen=True)
class FlatArguments(Plain):
    """By position among the leaves of a call, as torch.export lays them out.

    Attributes:
        spec: how the call of the example was nested.
        count: the number of placeholders.
    """

    spec: TreeSpec
    count: int

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        flat, got = torch.utils._pytree.tree_flatten((tuple(args), dict(kwargs)))
        if got != self.spec:
            order = list(self.spec.child(1).context or ()) if hasattr(self.spec, "child") else list(kwargs)
            flat, got = torch.utils._pytree.tree_flatten((tuple(args), {k: kwargs[k] for k in order if k in kwargs}))
        if len(flat) != self.count:
            raise TypeError(
                f"the model was exported with {self.count} inputs and is called with {len(flat)}; call it as in example_inputs="
            )
        return tuple(flat)


@dataclass(frozen=True)
class Nested(Plain):
    """The model's result from the leaves of it, as torch.export lays them out."""

    spec: TreeSpec

    def __call__(self, leaves: Any) -> Any:
        return torch.utils._pytree.tree_unflatten(list(leaves), self.spec)
