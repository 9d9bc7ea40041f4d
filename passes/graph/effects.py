"""What a call does besides returning a result: what it writes, whether it draws, which hooks it runs.

Calls that draw keep their order: of two dropouts in branches side by side, the one that the model calls first draws
first. A program runs its parts by position, not in the order of the forward. Other draws than the model's, from the
same seed, would be another dropout mask: right in distribution, and no longer the model's own.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..torch_private import DROPOUTS, HOOKS, OperatorPacket, schema_of
from .in_place_twins import CONTAINER_METHODS, OPERATORS, has_underscore, set_data, write_back
from .names import function_name, module_of

_STATISTICS = (F.batch_norm, F.instance_norm, torch.batch_norm, torch.instance_norm)
_WRITES = (operator.setitem, set_data, write_back, *OPERATORS)


def operand_of(node: fx.Node) -> fx.Node | None:
    """The first operand of a call, however it is passed."""
    if not node.op.startswith("call"):
        return None
    given = [*node.args[:1], *(node.kwargs[k] for k in ("input", "self", "tensor") if k in node.kwargs)]
    first = given[0] if given else None
    if isinstance(first, (str, tuple, list)):  # einsum("ij->ji", x), broadcast_tensors([x, y])
        return next(iter(node.all_input_nodes), None)
    return first if isinstance(first, fx.Node) else None


@functools.lru_cache(maxsize=1024)
def argument_names(target: Any) -> tuple[str, ...]:
    """The names of a function's arguments in order, as far as they can be known."""
    if target is F.scaled_dot_product_attention:  # built in, without a signature
        target = torch.ops.aten.scaled_dot_product_attention.default
    if (schema := schema_of(target)) is not None:
        return tuple(a.name for a in schema.arguments)
    try:
        return tuple(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return ()


# --- writes -----------------------------------------------------------------------------------------------


def written_by(node: fx.Node, network: nn.Module) -> tuple[fx.Node, ...]:
    """The operands that a call overwrites."""
    if not node.op.startswith("call"):
        return ()
    return tuple(dict.fromkeys([*_nodes(node.kwargs.get("out")), *_own_operands(node, network)]))


def _own_operands(node: fx.Node, network: nn.Module) -> Iterator[fx.Node]:
    if (schema := _mutable_schema(node.target)) is not None:
        for position, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
                yield from _nodes(given)
    elif _is_in_place(node, network):
        first = node.args[0] if node.args else None
        yield from _nodes(first) if isinstance(first, (tuple, list)) else _nodes(operand_of(node))


def _nodes(value: Any) -> list[fx.Node]:
    nodes: list[fx.Node] = []
    fx.node.map_arg(value, lambda n: nodes.append(n) or n)  # type: ignore[func-returns-value]
    return nodes


def _mutable_schema(target: Any) -> Any:
    """That of an operator which writes into an argument."""
    schema = schema_of(getattr(target, target.overloads()[0]) if isinstance(target, OperatorPacket) else target)
    return schema if schema is not None and schema.is_mutable else None


def _is_in_place(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return getattr(module_of(node, network), "inplace", False) is True
    if node.op == "call_method":
        return has_underscore(str(node.target)) or node.target in CONTAINER_METHODS
    return node.target in _WRITES or is_flagged(node) or _is_in_place_function(node.target)


def _is_in_place_function(function: Any) -> bool:
    home = getattr(function, "__module__", None) or type(function).__module__
    is_of_torch = home.split(".")[0] in ("torch", "builtins", "builtin_function_or_method") and callable(function)
    return is_of_torch and has_underscore(getattr(function, "__name__", ""))


def is_flagged(node: fx.Node) -> bool:
    """``F.relu(x, inplace=True)``, or ``F.relu(x, True)``."""
    position = flag_position(node.target, node.args)
    return node.kwargs.get("inplace") is True or (position is not None and node.args[position] is True)


def flag_position(function: Any, args: Sequence[Any]) -> int | None:
    """Which positional argument is ``inplace``."""
    names = argument_names(function)
    position = names.index("inplace") if "inplace" in names else len(args)
    return position if position < len(args) else None


def statistics_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """The running statistics that a norm, called as a function, moves."""
    given = dict(zip(("input", "running_mean", "running_var"), node.args, strict=False)) | node.kwargs
    read = node.target in _STATISTICS
    return tuple(v for k in ("running_mean", "running_var") if read and isinstance(v := given.get(k), fx.Node))


def is_impure(node: fx.Node) -> bool:
    """Whether a call is made though nothing reads its result: it writes, checks, draws, or nobody knows."""
    if node.op in ("placeholder", "output", "call_module"):
        return True
    if _is_draw(node):
        return True
    if node.op == "call_method":
        return has_underscore(str(node.target)) or node.target in _ON_TENSORS or not hasattr(Tensor, str(node.target))
    if node.op != "call_function":
        return False
    home = getattr(node.target, "__module__", None) or "torch"
    known = home.split(".")[0] in ("torch", "_operator", "operator", "builtins", "math", "ffebm_compiler")
    return (
        not known
        or "out" in node.kwargs
        or is_flagged(node)
        or _mutable_schema(node.target) is not None
        or node.target in (*_WRITES, torch._assert, *_STATISTICS)
        or getattr(node.target, "__name__", "").startswith("_assert")
        or _is_in_place_function(node.target)
    )


_ON_TENSORS = frozenset(("register_hook", "register_post_accumulate_grad_hook", "retain_grad", "backward"))
"""Methods of a tensor that do something besides returning a result."""


# --- draws ------------------------------------------------------------------------------------------------

RANDOM = "random numbers"
"""What calls that draw read and write, as others read and write a tensor that is overwritten."""

_DRAWS = frozenset((
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial",
    "normal", "poisson", "binomial", "cauchy", "exponential", "geometric", "log_normal", "random", "uniform", "rrelu",
    "gumbel_softmax", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
    "feature_dropout", "trunc_normal", "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform",
    "orthogonal", "sparse",
))  # fmt: skip
"""Names of functions and methods that draw random numbers."""

_DRAWING_LAYERS = (DROPOUTS, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def drawing_calls(graph: fx.Graph, network: nn.Module) -> Iterator[fx.Node]:
    """Calls that draw in one mode or the other, as far as can be told; a module of the user's that is called may."""
    for node in graph.nodes:
        module = module_of(node, network)
        if _may_draw(module) if module is not None else node.op.startswith("call") and _draws(node):
            yield node


def _may_draw(module: nn.Module) -> bool:
    if not type(module).__module__.startswith("torch."):
        return True
    return any(isinstance(m, _DRAWING_LAYERS) or bool(getattr(m, "dropout", 0)) for m in module.modules())


def _draws(node: fx.Node) -> bool:
    constants = dict(zip(argument_names(node.target), node.args, strict=False)) | node.kwargs
    if _is_draw(node):
        return constants.get("training") is not False and constants.get("train") is not False
    return constants.get("dropout_p") not in (None, 0.0)


def _is_draw(node: fx.Node) -> bool:
    return function_name(node.target).removeprefix("init_").rstrip("_") in _DRAWS


# --- new tensors ------------------------------------------------------------------------------------------

_NEW_FUNCTIONS = (
    "zeros", "ones", "full", "empty", "rand", "randn", "randint", "randperm", "arange", "linspace", "logspace", "eye",
    "tensor", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like",
    "tril_indices", "triu_indices",
)  # fmt: skip
_NEW_METHODS = ("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor")
_NEW = frozenset((*(getattr(torch, n) for n in _NEW_FUNCTIONS), *(getattr(Tensor, n) for n in _NEW_METHODS)))
CREATIONS = frozenset((*_NEW, torch.clone, Tensor.clone))
"""Functions that make a tensor which nobody else has."""


def is_new(node: fx.Node) -> bool:
    """Whether a call makes a tensor that has no history."""
    return node.target in (_NEW_METHODS if node.op == "call_method" else _NEW)


# --- hooks ------------------------------------------------------------------------------------------------


def is_hooked(module: nn.Module) -> bool:
    return any(getattr(module, hooks) for hooks in HOOKS)
