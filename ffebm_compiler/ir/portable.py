"""Frozen data that another process reads: pickled by its fields, its functions by names that they are found by there.

pickle finds a function by its module and qualified name. What has no such name gets one here: operators of
``torch.ops``, functions that torch makes in a closure (``F.max_pool2d`` is chosen by a flag), and graphs of
torch.fx.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial, singledispatch
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ..errors import PickleError, Problem
from ..torch_private import HigherOrderOperator, Operator, TreeSpec, tree_structure

if TYPE_CHECKING:
    from typing_extensions import Self


class Plain:
    """A frozen dataclass: its own copy, and pickled by its fields, without what was computed from them and kept."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), tuple(portable(getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Made:
    """What is pickled as a call that makes it again."""

    make: Callable[..., Any]
    args: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.make, self.args


@singledispatch
def portable(value: Any) -> Any:
    """A value as it can be pickled: the same once it is unpickled.

    Raises:
        PickleError: a function that has no name to be found by.
    """
    return value


@portable.register
def _(mapping: MappingProxyType) -> Any:
    return dict(mapping)


@portable.register
def _(function: partial) -> Any:
    given, named = map(portable, function.args), {k: portable(v) for k, v in function.keywords.items()}
    return _Made(_partial, (portable(function.func), tuple(given), named))


def _partial(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return partial(function, *args, **kwargs)


# --- functions ---------------------------------------------------------------------------------------------


@portable.register
def _(operator: Operator) -> Any:
    name, overload = operator._schema.name, operator._overloadname
    return _Made(_overload, (name, overload))


def _overload(name: str, overload: str) -> Any:
    namespace, operator = name.split("::")
    return getattr(getattr(getattr(torch.ops, namespace), operator), overload)


@portable.register
def _(operator: HigherOrderOperator) -> Any:
    return _Made(_higher_order, (operator.name(),))


def _higher_order(name: str) -> Any:
    return getattr(torch.ops.higher_order, name)


@portable.register
def _(function: FunctionType) -> Any:
    if _is_found_by_its_name(function):
        return function
    for name, value in vars(torch.nn.functional).items():
        if value is function:
            return _Made(_functional, (name,))
    code = function.__code__
    raise PickleError(
        Problem(
            f"function {function.__qualname__} at {code.co_filename}:{code.co_firstlineno}",
            "is part of the model's program and can't be pickled: "
            "another process finds a function by the name that it has in a module",
            "Define it with def at the top of a module, and bind its constants by functools.partial.",
        )
    )


def _functional(name: str) -> Any:
    return getattr(torch.nn.functional, name)


def _is_found_by_its_name(function: FunctionType) -> bool:
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError):
        return False
    return True


# --- how values are nested -----------------------------------------------------------------------------------


@portable.register
def _(spec: TreeSpec) -> Any:
    if spec.is_leaf():
        return _Made(_leaf_spec, ())
    return _Made(TreeSpec, (spec.type, spec.context, [portable(s) for s in spec.children()]))


def _leaf_spec() -> TreeSpec:
    return tree_structure(None, is_leaf=lambda value: True)


# --- graphs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """What stands for a node where another reads it."""

    name: str


@portable.register
def _(graph: fx.Graph) -> Any:
    return _Made(_graph, (tuple(_node(n) for n in graph.nodes),))


def _node(node: fx.Node) -> tuple[Any, ...]:
    args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), _leaf)
    return node.op, portable(node.target), tuple(args), dict(kwargs), node.name


def _leaf(value: Any) -> Any:
    return _Value(value.name) if isinstance(value, fx.Node) else portable(value)


def _graph(nodes: tuple[tuple[Any, ...], ...]) -> fx.Graph:
    graph, made = fx.Graph(), dict[str, fx.Node]()
    for op, target, args, kwargs, name in nodes:
        args, kwargs = fx.node.map_aggregate((args, kwargs), partial(_made_leaf, made))
        made[name] = graph.create_node(op, target, args, kwargs, name)
    return graph


def _made_leaf(made: Mapping[str, fx.Node], value: Any) -> Any:
    return made[value.name] if isinstance(value, _Value) else value
