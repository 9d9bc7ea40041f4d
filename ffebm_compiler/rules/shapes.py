"""Couplings that only move values: flatten, reshape, permute, concatenate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir import Kind, Operation, Options
from ..ir.functions import Sizes, concatenated, reshaped
from .forms import Form, Given, plain
from .one_operand import coupling
from .option_types import DIMENSION, DIMENSIONS, MOST_DIMENSIONS, OWN_DIMENSION, SHAPE, OptionType, several
from .rule import Call, Reading, Refusal, Role, Rule

aten = torch.ops.aten

FLATTEN, UNFLATTEN, RESHAPE, PERMUTE, TRANSPOSE, SQUEEZE, UNSQUEEZE, CAT, CONTIGUOUS = (
    Kind(name, __name__)
    for name in ("flatten", "unflatten", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "cat", "contiguous")
)


def moved(chosen: Options, given: Given, kind: Kind, function: Callable[..., Any]) -> Operation:
    """The operation of a rearrangement."""
    return Operation(
        name=kind.name,
        function=function,
        options=chosen,
        text=kind.name + "({0})",
        tex=rf"\mathrm{{{{{kind.name.replace('_', ' ')}}}}}({{0}})",
        kind=kind,
    )


def moving(kind: Kind, function: Callable[..., Any], **options: OptionType) -> Form[Operation]:
    return Form(partial(moved, kind=kind, function=function), options)


def behind_batch(*names: str) -> Callable[[Options], bool]:
    """Whether the dimensions of those options are behind the first; one that counts from the end may be any."""

    def keeps(chosen: Options) -> bool:
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


def _reshape_to(chosen: Options, given: Given) -> Operation:
    return moved(dict(shape=Sizes(chosen["shape"])), given, RESHAPE, reshaped)


def _reshape(call: Call) -> Reading | Refusal:
    given = _flat_arguments(call)
    if not given or any(isinstance(g, torch.dtype) for g in given):
        return Refusal("it reinterprets the type")
    sizes = tuple(g for g in given if isinstance(g, fx.Node))
    shape = tuple(None if isinstance(g, fx.Node) else int(g) for g in given)
    return Reading(
        operands=(call.operand(), *sizes),
        operation=_reshape_to(dict(shape=shape), ()),
        given=frozenset(sizes),
        batch_size=given[0] if isinstance(given[0], fx.Node) else None,
        keeps_batch=False,
    )


_PERMUTE = moving(PERMUTE, torch.permute, dims=several(DIMENSION))


def _permute(call: Call) -> Reading | Refusal:
    dims = _flat_arguments(call)
    if any(isinstance(d, fx.Node) for d in dims):
        return Refusal("its dimensions are computed at run time")
    return Reading(operands=(call.operand(),), operation=_PERMUTE(dict(dims=dims)), keeps_batch=dims[0] == 0)


MOST_PARTS = 1024
"""No concatenation joins more."""


def _joined(chosen: Options, given: Given) -> Operation:
    listed = ", ".join(f"{{{i}}}" for i in range(len(given)))
    tex = rf"\left[{listed}\right]"
    return Operation(name=CAT.name, function=concatenated, options=chosen, text=f"[{listed}]", tex=tex, kind=CAT)


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


_UNFLATTEN = moving(UNFLATTEN, torch.unflatten, dim=OWN_DIMENSION, sizes=SHAPE)


def _unflatten(call: Call) -> Reading | Refusal:
    """The module names its sizes in another way than the function."""
    if not call.constants("dim", "sizes"):
        return Refusal("its arguments are computed at run time")
    sizes = call.option("sizes" if call.module is None else "unflattened_size")
    chosen = dict(dim=call.option("dim"), sizes=tuple(sizes))
    return Reading(operands=(call.operand(),), operation=_UNFLATTEN(chosen), keeps_batch=behind_batch("dim")(chosen))


_CONTIGUOUS = Operation(name=CONTIGUOUS.name, function=Tensor.contiguous, text="{0}", tex="{0}", kind=CONTIGUOUS)


def _contiguous(call: Call) -> Reading | Refusal:
    return Reading(operands=(call.operand(),), operation=_CONTIGUOUS)


RULES: tuple[Rule, ...] = (
    coupling(
        FLATTEN,
        moving(FLATTEN, torch.flatten, start_dim=DIMENSION.by_default(0), end_dim=DIMENSION.by_default(-1)),
        "flatten dimensions",
        functions=(torch.flatten, aten.flatten.using_ints),
        methods=("flatten",),
        layer=(nn.Flatten, (2, 3, 4)),
        keeps_batch=behind_batch("start_dim"),
    ),
    Rule(
        "unflatten",
        Role.COUPLING,
        _unflatten,
        "split a dimension",
        modules=(nn.Unflatten,),
        functions=(torch.unflatten, aten.unflatten.int),
        methods=("unflatten",),
        signature=("input", "dim", "sizes"),
        examples=((lambda: nn.Unflatten(1, (2, 3)), (2, 6)),),
        forms={UNFLATTEN: (_UNFLATTEN,)},
    ),
    Rule(
        "reshape",
        Role.COUPLING,
        _reshape,
        "another shape, of sizes that are constant or known before",
        functions=(torch.reshape, aten.view.default, aten.reshape.default),
        methods=("view", "reshape"),
        signature=("input",),
        forms={RESHAPE: (Form(_reshape_to, {"shape": SHAPE}, (1, 1 + MOST_DIMENSIONS)),)},
    ),
    Rule(
        "permute",
        Role.COUPLING,
        _permute,
        "permuted dimensions",
        functions=(torch.permute, aten.permute.default),
        methods=("permute",),
        signature=("input",),
        forms={PERMUTE: (_PERMUTE,)},
    ),
    coupling(
        TRANSPOSE,
        moving(TRANSPOSE, torch.transpose, dim0=DIMENSION, dim1=DIMENSION),
        "two dimensions exchanged",
        functions=(torch.transpose, torch.swapaxes, aten.transpose.int),
        methods=("transpose", "swapaxes"),
        keeps_batch=behind_batch("dim0", "dim1"),
    ),
    coupling(
        SQUEEZE,
        moving(SQUEEZE, torch.squeeze, dim=DIMENSIONS),
        "a dimension of size 1 removed",
        functions=(torch.squeeze, aten.squeeze.dim),
        methods=("squeeze",),
        keeps_batch=behind_batch("dim"),
    ),
    coupling(
        UNSQUEEZE,
        moving(UNSQUEEZE, torch.unsqueeze, dim=DIMENSION),
        "a dimension of size 1 added",
        functions=(torch.unsqueeze, aten.unsqueeze.default),
        methods=("unsqueeze",),
        keeps_batch=lambda chosen: chosen["dim"] > 0 or chosen["dim"] == -1,
    ),
    Rule(
        "cat",
        Role.COUPLING,
        _cat,
        "concatenation along any dimension but the batch",
        functions=(torch.cat, torch.concat, torch.concatenate, aten.cat.default),
        signature=("tensors", "dim"),
        forms={CAT: (Form(_joined, {"dim": OWN_DIMENSION}, (1, MOST_PARTS)),)},
    ),
    Rule(
        "contiguous",
        Role.COUPLING,
        _contiguous,
        "the same values in another memory layout, which a digital view may need",
        functions=(aten.contiguous.default,),
        methods=("contiguous",),
        forms={CONTIGUOUS: plain(_CONTIGUOUS)},
    ),
)
