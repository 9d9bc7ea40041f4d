"""What a call writes into, besides returning a result; and which calls are made though nothing reads their result."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, fx, nn

from .in_place_twins import OPERATORS, set_data, write_back
from .naming import function_name, module_of

CONTAINER_METHODS = frozenset((
    "append", "appendleft", "extend", "extendleft", "insert", "pop", "popleft", "popitem", "remove", "discard",
    "clear", "update", "setdefault", "reverse",
))  # fmt: skip
"""Methods that write into a list, a dict or a set: no tensor has one of that name."""

_STATISTICS = (torch.nn.functional.batch_norm, torch.nn.functional.instance_norm, torch.batch_norm, torch.instance_norm)


def operand_of(node: fx.Node) -> fx.Node | None:
    """The first operand of a call, however it is passed."""
    if not node.op.startswith("call"):
        return None
    given = [*node.args[:1], *(node.kwargs[k] for k in ("input", "self", "tensor") if k in node.kwargs)]
    first = given[0] if given else None
    if isinstance(first, (str, tuple, list)):  # einsum("ij->ji", x), broadcast_tensors([x, y])
        return next(iter(node.all_input_nodes), None)
    return first if isinstance(first, fx.Node) else None


def written_by(node: fx.Node, network: nn.Module) -> tuple[fx.Node, ...]:
    """The operands that a call overwrites."""
    if not node.op.startswith("call"):
        return ()
    found = [*_nodes(node.kwargs.get("out")), *_own_operand(node, network)]
    return tuple(dict.fromkeys(found))


def _own_operand(node: fx.Node, network: nn.Module) -> Iterator[fx.Node]:
    if (schema := _mutable_schema(node.target)) is not None:
        for position, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
                yield from _nodes(given)
    elif _is_in_place(node, network):
        first = node.args[0] if node.args else None
        yield from _nodes(first) if isinstance(first, (tuple, list)) else _nodes(operand_of(node))


def _nodes(value: Any) -> Iterator[fx.Node]:
    return (v for v in torch.utils._pytree.tree_leaves(value) if isinstance(v, fx.Node))


def _mutable_schema(target: Any) -> Any:
    """That of an operator which writes into an argument."""
    if isinstance(target, torch._ops.OpOverloadPacket):
        target = getattr(target, target.overloads()[0])
    schema = getattr(target, "_schema", None)
    return schema if schema is not None and schema.is_mutable else None


def _is_in_place(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return getattr(module_of(node, network), "inplace", False) is True
    if node.op == "call_method":
        return has_underscore(str(node.target)) or node.target in CONTAINER_METHODS
    if node.target in OPERATORS or node.target in (operator.setitem, set_data, write_back):
        return True
    return is_flagged(node) or (_is_of_torch(node.target) and has_underscore(getattr(node.target, "__name__", "")))


def has_underscore(name: str) -> bool:
    """Whether a method or function writes into its operand, by torch's convention."""
    return name.endswith("_") and not name.endswith("__")


def _is_of_torch(function: Any) -> bool:
    home = getattr(function, "__module__", None) or type(function).__module__
    return home.split(".")[0] in ("torch", "builtins", "builtin_function_or_method") and callable(function)


def is_flagged(node: fx.Node) -> bool:
    """``F.relu(x, inplace=True)``, or ``F.relu(x, True)``."""
    position = flag_position(node.target, node.args)
    return node.kwargs.get("inplace") is True or (position is not None and node.args[position] is True)


def flag_position(function: Any, args: Sequence[Any]) -> int | None:
    """Which positional argument is ``inplace``."""
    names = _parameters(function)
    position = names.index("inplace") if "inplace" in names else len(args)
    return position if position < len(args) else None


@functools.lru_cache(maxsize=1024)
def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def statistics_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """The running statistics that a norm, called as a function, moves."""
    given = dict(zip(("input", "running_mean", "running_var"), node.args, strict=False)) | node.kwargs
    read = node.target in _STATISTICS
    return tuple(v for k in ("running_mean", "running_var") if read and isinstance(v := given.get(k), fx.Node))


def is_impure(node: fx.Node) -> bool:
    """Whether a call is made though nothing reads its result: it writes, checks, draws, or nobody knows what it
    does."""
    if node.op in ("placeholder", "output", "call_module"):
        return True
    if function_name(node.target).removeprefix("init_").rstrip("_") in DRAWS:
        return True
    if node.op == "call_method":
        return has_underscore(str(node.target)) or node.target in _ON_TENSORS or not hasattr(Tensor, str(node.target))
    if node.op != "call_function":
        return False
    home = getattr(node.target, "__module__", None) or "torch"
    name = getattr(node.target, "__name__", "")
    known = home.split(".")[0] in ("torch", "_operator", "operator", "builtins", "math", "ffebm_compiler")
    return (
        not known
        or "out" in node.kwargs
        or is_flagged(node)
        or _mutable_schema(node.target) is not None
        or node.target in (operator.setitem, set_data, write_back, torch._assert, *OPERATORS, *_STATISTICS)
        or name.startswith("_assert")
        or (has_underscore(name) and _is_of_torch(node.target))
    )


DRAWS = frozenset((
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial", "normal", "poisson",
    "binomial", "cauchy", "exponential", "geometric", "log_normal", "random", "uniform", "rrelu", "gumbel_softmax", "dropout", "dropout1d",
    "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout", "trunc_normal", "kaiming_normal",
    "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal", "sparse",
))  # fmt: skip
"""Names of what draws random numbers: later draws depend on it."""

_ON_TENSORS = frozenset(("register_hook", "register_post_accumulate_grad_hook", "retain_grad", "backward"))
"""Methods of a tensor that do something besides returning a result."""
