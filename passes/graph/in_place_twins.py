"""What an in-place call means as a function: its *twin*, which returns what the operand would become.

Most methods mean the same without their underscore: ``x.relu_()`` is ``x.relu()``. The others are made on a copy:
``x.bernoulli_(p)`` fills x with draws, where ``x.bernoulli(p)`` takes x for the probabilities. What stands in neither
table has no twin, and is refused by name.

An in-place call keeps the type and the shape of its operand, which its twin may not: ``half.mul_(float)`` is half, and
``int.add_(float)`` an error. :data:`kept` holds the twins that insist on both.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...torch_private import Operator
from ..torch_private import schema_of

SAME_MEANING = frozenset((
    "abs", "absolute", "acos", "acosh", "add", "addbmm", "addcdiv", "addcmul", "addmm", "addmv", "addr", "arccos",
    "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "asin", "asinh", "atan", "atan2", "atanh",
    "baddbmm", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift",
    "bitwise_xor", "ceil", "clamp", "clamp_max", "clamp_min", "clip", "conj_physical", "copysign", "cos", "cosh",
    "cumprod", "cumsum", "deg2rad", "digamma", "div", "divide", "eq", "erf", "erfc", "erfinv", "exp", "exp2",
    "expm1", "fix", "float_power", "floor", "floor_divide", "fmod", "frac", "gcd", "ge", "greater", "greater_equal",
    "gt", "heaviside", "hypot", "i0", "igamma", "igammac", "index_add", "index_copy", "index_fill", "index_put",
    "index_reduce", "lcm", "ldexp", "le", "lerp", "less", "less_equal", "lgamma", "log", "log10", "log1p", "log2",
    "logical_and", "logical_not", "logical_or", "logical_xor", "logit", "lt", "masked_fill", "masked_scatter",
    "mul", "multiply", "mvlgamma", "nan_to_num", "ne", "neg", "negative", "nextafter", "not_equal", "polygamma",
    "pow", "put", "rad2deg", "reciprocal", "relu", "remainder", "renorm", "round", "rsqrt", "scatter",
    "scatter_add", "scatter_reduce", "sgn", "sigmoid", "sign", "sin", "sinc", "sinh", "sqrt", "square", "squeeze",
    "sub", "subtract", "swapaxes", "swapdims", "t", "tan", "tanh", "transpose", "tril", "triu", "true_divide",
    "trunc", "unsqueeze", "xlogy",
))  # fmt: skip
"""Methods of a tensor whose in-place form, with an underscore, writes what they return."""

ON_A_COPY = frozenset((
    "apply_", "bernoulli_", "cauchy_", "copy_", "detach_", "exponential_", "fill_", "fill_diagonal_", "geometric_",
    "log_normal_", "map2_", "map_", "normal_", "random_", "requires_grad_", "share_memory_", "uniform_", "zero_",
))  # fmt: skip
"""Methods whose name without the underscore means something else, or nothing."""

_SAME_ACTIVATIONS = frozenset((
    "celu_", "elu_", "gelu_", "hardsigmoid_", "hardswish_", "hardtanh_", "leaky_relu_", "mish_", "relu6_", "rrelu_",
    "selu_", "silu_", "threshold_",
))  # fmt: skip
"""Operators of ATen, no methods of a tensor, whose name without the underscore means the same."""

OPERATORS: Mapping[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul, operator.ipow: operator.pow,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
    operator.imatmul: operator.matmul, operator.iand: operator.and_, operator.ior: operator.or_,
    operator.ixor: operator.xor, operator.ilshift: operator.lshift, operator.irshift: operator.rshift,
}  # fmt: skip

KEEPS_TYPE_AND_SHAPE = frozenset((
    "abs", "absolute", "ceil", "clip", "conj_physical", "cumprod", "cumsum", "fix", "floor", "frac", "index_add",
    "index_copy", "index_fill", "index_put", "index_reduce", "lerp", "masked_fill", "masked_scatter", "nan_to_num",
    "neg", "negative", "put", "relu", "renorm", "round", "scatter", "scatter_add", "scatter_reduce", "sgn", "sign",
    "square", "squeeze", "swapaxes", "swapdims", "t", "transpose", "tril", "triu", "trunc", "unsqueeze",
))  # fmt: skip
"""Methods that return the type of their operand, and its shape or the one that the in-place form gives it."""


COMPARISONS = frozenset((
    "eq", "ge", "greater", "greater_equal", "gt", "heaviside", "le", "less", "less_equal", "logical_and",
    "logical_not", "logical_or", "logical_xor", "lt", "ne", "not_equal",
))  # fmt: skip
"""Methods whose result has another type than the operand, whatever it is compared with."""


CONTAINER_METHODS = frozenset((
    "append", "appendleft", "extend", "extendleft", "insert", "pop", "popleft", "popitem", "remove", "discard",
    "clear", "update", "setdefault", "reverse",
))  # fmt: skip
"""Methods that write into a list, a dict or a set: no tensor has one of that name."""

_RETURN_NOTHING = ("append", "extend", "insert", "update", "clear", "reverse")
"""Those of them that have twins."""


def has_underscore(name: str) -> bool:
    """Whether a method or function writes into its operand, by torch's convention."""
    return name.endswith("_") and not name.endswith("__")


# --- twins ------------------------------------------------------------------------------------------------


def own(x: Any) -> Any:
    """A copy that nobody else reads, of what can be written into: a tensor, a list, a dict."""
    if isinstance(x, Tensor):
        return x.clone()
    return copy.copy(x) if isinstance(x, (list, dict)) else x


def _on_copy(name: str, write: Callable[..., Any] | None = None) -> Callable[..., Any]:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        changed = own(x)
        getattr(changed, name)(*args, **kwargs) if write is None else write(changed, *args, **kwargs)
        return changed

    return _named(call, "on_copy", name)


def _kept(twin: Callable[..., Any], in_place: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        result = twin(x, *args, **kwargs)
        if not isinstance(x, Tensor) or (result.dtype == x.dtype and result.shape == x.shape):
            return result
        return in_place(x.clone(), *args, **kwargs)  # casts, or raises torch's own error

    return _named(call, "kept", name)


def _named(call: Callable[..., Any], table: str, name: str) -> Callable[..., Any]:
    """Generated code reaches it as ``<this module>.<table>.<name>``, and reports print its name."""
    call.__name__, call.__qualname__ = name, f"{table}.{name}"
    return call


_INITIALISATIONS = {f"init_{n}": getattr(nn.init, n) for n in dir(nn.init) if has_underscore(n) and n[0] != "_"}

on_copy = SimpleNamespace(
    **{name: _on_copy(name) for name in (*sorted(ON_A_COPY), *_RETURN_NOTHING)},
    **{name: _on_copy(name, function) for name, function in _INITIALISATIONS.items()},
)
"""By the name of a method that writes, or of an initialisation: the function that returns a written copy."""

kept = SimpleNamespace(
    **{n: _kept(getattr(Tensor, n), getattr(Tensor, f"{n}_"), n) for n in sorted(SAME_MEANING - KEEPS_TYPE_AND_SHAPE)},
    **{f.__name__: _kept(OPERATORS[f], f, f.__name__) for f in OPERATORS},
)
"""Twins that have the type and the shape of their operand, as an in-place call has, or raise as it does."""


def set_item(x: Any, index: Any, value: Any) -> Any:
    """``x[index] = value`` as a function that leaves x alone."""
    changed = own(x)
    changed[index] = value
    return changed


def write_back(x: Any, value: Any) -> None:
    """Gives an argument of the caller's what the model has written into it."""
    if isinstance(x, Tensor):
        x.copy_(value)
    elif isinstance(x, list):
        x[:] = value
    elif isinstance(x, dict):
        x.clear()
        x.update(value)


def set_data(x: Tensor, value: Tensor) -> None:
    """``x.data = value``."""
    x.data = value


def as_out(result: Tensor, out: Tensor) -> Tensor:
    """What ``out=`` holds: a result in the type of the tensor that it is written to."""
    return result if result.dtype == out.dtype else result.to(out.dtype)


# --- which twin -------------------------------------------------------------------------------------------


def _twin_of_name(name: str, namespace: Any) -> Any:
    """The twin of a method or function of that name: one on a copy, or that of the namespace without the underscore."""
    if name in ON_A_COPY:
        return getattr(on_copy, name)
    return getattr(namespace, name[:-1], None) if has_underscore(name) and name[:-1] in SAME_MEANING else None


_SAME_FUNCTIONS = {
    torch: (
        "alpha_dropout",
        "celu",
        "dropout",
        "feature_alpha_dropout",
        "feature_dropout",
        "rrelu",
        "selu",
        "threshold",
    ),
    F: ("celu", "elu", "hardtanh", "leaky_relu", "relu", "rrelu", "selu", "threshold"),
}
"""In-place functions that are no methods of a tensor, and mean the same without the underscore."""

_TWINS: Mapping[Any, Any] = {
    **{vars(torch)[n]: _twin_of_name(n, torch) for n in vars(torch) if has_underscore(n)},
    **{function: getattr(on_copy, name) for name, function in _INITIALISATIONS.items()},
    **{vars(home)[f"{n}_"]: getattr(home, n) for home, names in _SAME_FUNCTIONS.items() for n in names},
    **OPERATORS,
    operator.setitem: set_item,
}
"""By an in-place function: the function that returns what it writes, None where there is none."""


def twin_of(target: Any) -> Any:
    """The function, or the name of the method, that returns what an in-place call writes; None where there is none."""
    if isinstance(target, str):
        if target in CONTAINER_METHODS:
            return getattr(on_copy, target, None)
        twin = _twin_of_name(target, Tensor)
        return target[:-1] if twin is not None and target not in ON_A_COPY else twin
    if isinstance(target, Operator):
        return _twin_of_operator(target)
    return _TWINS.get(target)


def _twin_of_operator(target: Any) -> Any:
    """``aten.add_.Tensor`` -> ``aten.add.Tensor``."""
    namespace, name = schema_of(target).name.split("::")
    if namespace != "aten" or not has_underscore(name):
        return None
    if name in ON_A_COPY:
        return getattr(on_copy, name)
    known = name[:-1] in SAME_MEANING or name in _SAME_ACTIVATIONS
    packet = getattr(torch.ops.aten, name[:-1], None) if known else None
    return getattr(packet, schema_of(target).overload_name or "default", None)
