"""Pooling. An average is a linear map; a maximum is one while its winners are held (a *routed* coupling)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import Operation
from ..ir.functions import taken
from .remake import (
    COUNT,
    COUNTS,
    DIMENSION,
    FLAG,
    SIZES,
    Given,
    Kind,
    OperationRemakes,
    Options,
    Remake,
    either,
    optional,
    several,
)
from .rule import Call, Reading, Refusal, Role, Rule, options

aten = torch.ops.aten


def _read(
    name: str, function: Callable[..., Any], defaults: dict[str, Any], routed: bool
) -> Callable[[Call], Reading | Refusal]:
    def read(call: Call) -> Reading | Refusal:
        if call.option("return_indices", False):
            return Refusal("return_indices=True: the winners' indices are not part of an energy")
        if not call.constants(*defaults):
            return Refusal("its window is computed at run time")
        chosen = {k: call.option(k, v) for k, v in defaults.items() if call.option(k, v) is not ...}
        if chosen.get("stride") in ((), []):
            chosen["stride"] = None
        return Reading(
            operands=(call.as_operand(call.value()),),
            operation=_operation(name, function, options(**chosen), routed),
        )

    return read


def _operation(name: str, function: Callable[..., Any], chosen: Options, routed: bool) -> Operation:
    if not routed:
        return Operation(name=name, function=function, options=chosen)
    choose, take = partial(_winners, function=function), partial(taken, dimensions=int(name[-2]))
    return Operation(name=name, function=function, options=chosen, linear=False, routed=True, choose=choose, take=take)


def _winners(a: Tensor, function: Callable[..., Any], **chosen: Any) -> Tensor:
    winners: Tensor = function(a, return_indices=True, **chosen)[1]
    return winners


_MAX = dict(kernel_size=..., stride=None, padding=0, dilation=1, ceil_mode=False)
_AVERAGE = dict(kernel_size=..., stride=None, padding=0, ceil_mode=False, count_include_pad=True)


def _rule(
    name: str,
    module: type[nn.Module],
    functions: tuple[Callable[..., Any], ...],
    defaults: dict[str, Any],
    summary: str,
    example: Callable[[], nn.Module],
    shape: tuple[int, ...],
) -> Rule:
    return Rule(
        name,
        Role.COUPLING,
        _read(name, functions[0], defaults, routed="max" in name),
        summary,
        modules=(module,),
        functions=functions,
        signature=("input", *defaults),
        examples=((example, shape),),
    )


def _mean(call: Call) -> Reading | Refusal:
    dims = call.option("dim", None)
    if dims is None or call.arguments.get("dtype") is not None or not call.constants("dim", "keepdim"):
        return Refusal("a mean over everything, or into another type, mixes the samples")
    chosen = (dims,) if isinstance(dims, int) else tuple(dims)
    if 0 in chosen:
        return Refusal("a mean over the batch mixes the samples")
    keep = bool(call.option("keepdim", False))
    return Reading(
        operands=(call.as_operand(call.value()),),
        operation=_averaged(dict(dim=chosen, keepdim=keep)),
        keeps_batch=all(d > 0 for d in chosen),  # one that counts from the end may be the first
    )


def _averaged(chosen: Options, given: Given = ()) -> Operation:
    return Operation(name="mean", function=torch.mean, options=chosen, text="mean({0})", tex=r"\mathrm{{mean}}({0})")


_SHAPES: dict[int, tuple[int, ...]] = {1: (2, 3, 8), 2: (2, 3, 8, 6), 3: (2, 2, 4, 4, 4)}


def _dimension(d: int) -> tuple[Rule, ...]:
    """The four poolings in d dimensions."""
    maximum, average = getattr(F, f"max_pool{d}d"), getattr(F, f"avg_pool{d}d")
    adaptive_max, adaptive_average = getattr(F, f"adaptive_max_pool{d}d"), getattr(F, f"adaptive_avg_pool{d}d")
    average_defaults = dict(_AVERAGE) if d == 1 else {**_AVERAGE, "divisor_override": None}
    overload = "default"
    shape = _SHAPES[d]
    return (
        _rule(
            f"max_pool{d}d",
            getattr(nn, f"MaxPool{d}d"),
            (maximum, getattr(torch, f"max_pool{d}d"), getattr(getattr(aten, f"max_pool{d}d"), overload)),
            _MAX,
            "maximum over windows; its winners are held while nudged",
            lambda: getattr(nn, f"MaxPool{d}d")(2),
            shape,
        ),
        _rule(
            f"avg_pool{d}d",
            getattr(nn, f"AvgPool{d}d"),
            (average, getattr(getattr(aten, f"avg_pool{d}d"), overload)),
            average_defaults,
            "mean over windows",
            lambda: getattr(nn, f"AvgPool{d}d")(2),
            shape,
        ),
        _rule(
            f"adaptive_max_pool{d}d",
            getattr(nn, f"AdaptiveMaxPool{d}d"),
            (adaptive_max,),
            dict(output_size=...),
            "maximum over adaptive windows",
            lambda: getattr(nn, f"AdaptiveMaxPool{d}d")(2),
            shape,
        ),
        _rule(
            f"adaptive_avg_pool{d}d",
            getattr(nn, f"AdaptiveAvgPool{d}d"),
            (adaptive_average, getattr(getattr(aten, f"adaptive_avg_pool{d}d"), overload)),
            dict(output_size=...),
            "mean over adaptive windows",
            lambda: getattr(nn, f"AdaptiveAvgPool{d}d")(2),
            shape,
        ),
    )


POOLING_RULES: tuple[Rule, ...] = (
    *_dimension(1),
    *_dimension(2),
    *_dimension(3),
    Rule(
        "mean",
        Role.COUPLING,
        _mean,
        "mean over dimensions other than the batch",
        functions=(torch.mean, aten.mean.dim),
        methods=("mean",),
        signature=("input", "dim", "keepdim", "dtype"),
    ),
)

_PARTLY = several(optional(COUNT))
_POOLINGS: dict[str, dict[str, Kind]] = {
    "max_pool": {
        "kernel_size": COUNTS,
        "stride": optional(COUNTS),
        "padding": SIZES,
        "dilation": COUNTS,
        "ceil_mode": FLAG,
    },
    "avg_pool": {
        "kernel_size": COUNTS,
        "stride": optional(COUNTS),
        "padding": SIZES,
        "ceil_mode": FLAG,
        "count_include_pad": FLAG,
    },
    "adaptive_max_pool": {"output_size": either(COUNT, _PARTLY)},
    "adaptive_avg_pool": {"output_size": either(COUNT, _PARTLY)},
}


def _remake(kind: str, d: int) -> tuple[Remake[Operation], ...]:
    name = f"{kind}{d}d"
    override = {"divisor_override": optional(COUNT)} if kind == "avg_pool" and d > 1 else {}
    function, routed = getattr(F, name), "max" in kind
    return (Remake(lambda o, given: _operation(name, function, o, routed), {**_POOLINGS[kind], **override}),)


POOLING_OPERATIONS: OperationRemakes = {
    **{f"{kind}{d}d": _remake(kind, d) for kind in _POOLINGS for d in (1, 2, 3)},
    "mean": (Remake(_averaged, {"dim": several(DIMENSION), "keepdim": FLAG}),),
}
