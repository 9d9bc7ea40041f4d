"""Couplings that only move values: flatten, reshape, permute, pad, concatenate, upsample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir import Operation
from ..ir.functions import Sizes, concatenated, reshaped
from .remake import (
    DIMENSION,
    DIMENSIONS,
    MOST_DIMENSIONS,
    OWN_DIMENSION,
    SHAPE,
    Given,
    Kind,
    OperationRemakes,
    Options,
    Remake,
    plain,
    several,
)
from .rule import Call, Reading, Refusal, Role, Rule, options

aten = torch.ops.aten


def moved(name: str, function: Callable[..., Any], chosen: Options) -> Operation:
    """The operation of a rearrangement."""
    return Operation(
        name=name,
        function=function,
        options=chosen,
        text=name + "({0})",
        tex=rf"\mathrm{{{{{name.replace('_', ' ')}}}}}({{0}})",
    )


def moving(name: str, function: Callable[..., Any], **options: Kind) -> tuple[Remake[Operation], ...]:
    return (Remake(lambda chosen, given: moved(name, function, chosen), options),)


def rearrangement(
    name: str, function: Callable[..., Any], defaults: dict[str, Any], keeps_batch: Callable[[dict[str, Any]], bool]
) -> Callable[[Call], Reading | Refusal]:
    """A rearrangement with constant arguments."""

    def read(call: Call) -> Reading | Refusal:
        if not call.constants(*defaults):
            return Refusal("its arguments are computed at run time")
        chosen = options(**{k: call.option(k, v) for k, v in defaults.items()})
        return Reading(
            operands=(call.as_operand(call.value()),),
            operation=moved(name, function, chosen),
            keeps_batch=keeps_batch(chosen),
        )

    return read


def behind_batch(*names: str) -> Callable[[dict[str, Any]], bool]:
    """Whether the dimensions of those options are behind the first; one that counts from the end may be any."""

    def keeps(chosen: dict[str, Any]) -> bool:
        dims = [d for n in names for d in (chosen[n] if isinstance(chosen[n], tuple) else (chosen[n],))]
        return all(isinstance(d, int) and d > 0 for d in dims)

    return keeps


def _flat_arguments(call: Call) -> tuple[Any, ...]:
    """The shape or dimensions, however they were passed: x.view(2, 3), x.view((2, 3)), torch.permute(x, (1, 0))."""
    given = call.node.args[1:] or tuple(
        v for k, v in call.node.kwargs.items() if k in ("shape", "size", "dims", "sizes")
    )
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        given = tuple(given[0])
    return tuple(given)


def _reshape(call: Call) -> Reading | Refusal:
    given = _flat_arguments(call)
    if not given or any(isinstance(g, torch.dtype) for g in given):
        return Refusal("it reinterprets the type")
    sizes = tuple(g for g in given if isinstance(g, fx.Node))
    shape = Sizes(None if isinstance(g, fx.Node) else int(g) for g in given)
    return Reading(
        operands=(call.as_operand(call.value()), *sizes),
        operation=moved("reshape", reshaped, dict(shape=shape)),
        given=frozenset(sizes),
        batch_size=given[0] if isinstance(given[0], fx.Node) else None,
        keeps_batch=False,
    )


def _permute(call: Call) -> Reading | Refusal:
    dims = _flat_arguments(call)
    if any(isinstance(d, fx.Node) for d in dims):
        return Refusal("its dimensions are computed at run time")
    return Reading(
        operands=(call.as_operand(call.value()),),
        operation=moved("permute", torch.permute, dict(dims=tuple(dims))),
        keeps_batch=dims[0] == 0,
    )


def _cat(call: Call) -> Reading | Refusal:
    parts = call.arguments["tensors"]
    dim = call.option("dim", 0)
    if not isinstance(parts, (tuple, list)) or not isinstance(dim, int):
        return Refusal("its parts are computed at run time")
    if dim == 0:
        return Refusal("it concatenates along the batch")
    return Reading(
        operands=tuple(call.as_operand(p) for p in parts),
        operation=_joined(dict(dim=dim), (True,) * len(parts)),
        keeps_batch=dim > 0,
    )


def _joined(chosen: Options, given: Given) -> Operation:
    listed = ", ".join(f"{{{i}}}" for i in range(len(given)))
    return Operation(
        name="cat", function=concatenated, options=chosen, text=f"[{listed}]", tex=rf"\left[{listed}\right]"
    )


def _unflatten_layer(call: Call) -> Reading | Refusal:
    """The module names its sizes in another way than the function."""
    sizes = dict(dim=call.option("dim"), sizes=call.option("unflattened_size"))
    return rearrangement("unflatten", torch.unflatten, sizes, behind_batch("dim"))(call)


def _contiguous(call: Call) -> Reading | Refusal:
    return Reading(operands=(call.as_operand(call.value()),), operation=_CONTIGUOUS)


_CONTIGUOUS = Operation(name="contiguous", function=Tensor.contiguous, text="{0}", tex="{0}")


SHAPE_RULES: tuple[Rule, ...] = (
    Rule(
        "flatten",
        Role.COUPLING,
        rearrangement("flatten", torch.flatten, dict(start_dim=0, end_dim=-1), behind_batch("start_dim")),
        "flatten dimensions",
        functions=(torch.flatten, aten.flatten.using_ints),
        methods=("flatten",),
        signature=("input", "start_dim", "end_dim"),
    ),
    Rule(
        "flatten_layer",
        Role.COUPLING,
        rearrangement("flatten", torch.flatten, dict(start_dim=1, end_dim=-1), behind_batch("start_dim")),
        "flatten dimensions",
        modules=(nn.Flatten,),
        examples=((nn.Flatten, (2, 3, 4)),),
    ),
    Rule(
        "unflatten",
        Role.COUPLING,
        rearrangement("unflatten", torch.unflatten, dict(dim=..., sizes=...), behind_batch("dim")),
        "split a dimension",
        functions=(torch.unflatten, aten.unflatten.int),
        methods=("unflatten",),
        signature=("input", "dim", "sizes"),
    ),
    Rule(
        "unflatten_layer",
        Role.COUPLING,
        _unflatten_layer,
        "split a dimension",
        modules=(nn.Unflatten,),
        examples=((lambda: nn.Unflatten(1, (2, 3)), (2, 6)),),
    ),
    Rule(
        "reshape",
        Role.COUPLING,
        _reshape,
        "another shape, of sizes that are constant or known before",
        functions=(torch.reshape, aten.view.default, aten.reshape.default),
        methods=("view", "reshape"),
        signature=("input",),
    ),
    Rule(
        "permute",
        Role.COUPLING,
        _permute,
        "permuted dimensions",
        functions=(torch.permute, aten.permute.default),
        methods=("permute",),
        signature=("input",),
    ),
    Rule(
        "transpose",
        Role.COUPLING,
        rearrangement("transpose", torch.transpose, dict(dim0=..., dim1=...), behind_batch("dim0", "dim1")),
        "two dimensions exchanged",
        functions=(torch.transpose, torch.swapaxes, aten.transpose.int),
        methods=("transpose", "swapaxes"),
        signature=("input", "dim0", "dim1"),
    ),
    Rule(
        "squeeze",
        Role.COUPLING,
        rearrangement("squeeze", torch.squeeze, dict(dim=...), behind_batch("dim")),
        "a dimension of size 1 removed",
        functions=(torch.squeeze, aten.squeeze.dim),
        methods=("squeeze",),
        signature=("input", "dim"),
    ),
    Rule(
        "unsqueeze",
        Role.COUPLING,
        rearrangement("unsqueeze", torch.unsqueeze, dict(dim=...), lambda o: o["dim"] > 0 or o["dim"] == -1),
        "a dimension of size 1 added",
        functions=(torch.unsqueeze, aten.unsqueeze.default),
        methods=("unsqueeze",),
        signature=("input", "dim"),
    ),
    Rule(
        "cat",
        Role.COUPLING,
        _cat,
        "concatenation along any dimension but the batch",
        functions=(torch.cat, torch.concat, torch.concatenate, aten.cat.default),
        signature=("tensors", "dim"),
    ),
    Rule(
        "contiguous",
        Role.COUPLING,
        _contiguous,
        "the same values in another memory layout, which a digital view may need",
        functions=(aten.contiguous.default,),
        methods=("contiguous",),
    ),
)


def _reshape_remade(chosen: Options, given: Given) -> Operation:
    return moved("reshape", reshaped, dict(shape=Sizes(chosen["shape"])))


MOST_PARTS = 1024
"""No concatenation joins more."""

SHAPE_OPERATIONS: OperationRemakes = {
    "flatten": moving("flatten", torch.flatten, start_dim=DIMENSION, end_dim=DIMENSION),
    "unflatten": moving("unflatten", torch.unflatten, dim=OWN_DIMENSION, sizes=SHAPE),
    "reshape": (Remake(_reshape_remade, {"shape": SHAPE}, (1, 1 + MOST_DIMENSIONS)),),
    "permute": moving("permute", torch.permute, dims=several(DIMENSION)),
    "transpose": moving("transpose", torch.transpose, dim0=DIMENSION, dim1=DIMENSION),
    "squeeze": moving("squeeze", torch.squeeze, dim=DIMENSIONS),
    "unsqueeze": moving("unsqueeze", torch.unsqueeze, dim=DIMENSION),
    "cat": (Remake(_joined, {"dim": OWN_DIMENSION}, (1, MOST_PARTS)),),
    "contiguous": plain(_CONTIGUOUS),
}
