"""Pooling. An average is a linear map; a maximum is one while its winners are held (a *routed* coupling)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import Kind, Operation, Options
from ..ir.functions import taken
from .forms import Form, Given
from .option_types import COUNT, COUNTS, DIMENSION, FLAG, SIZES, OptionType, either, optional, several
from .rule import Call, Reading, Refusal, Role, Rule

aten = torch.ops.aten

MAXIMA = {d: Kind(f"max_pool{d}d", __name__) for d in (1, 2, 3)}
AVERAGES = {d: Kind(f"avg_pool{d}d", __name__) for d in (1, 2, 3)}
ADAPTIVE_MAXIMA = {d: Kind(f"adaptive_max_pool{d}d", __name__) for d in (1, 2, 3)}
ADAPTIVE_AVERAGES = {d: Kind(f"adaptive_avg_pool{d}d", __name__) for d in (1, 2, 3)}
"""By the number of dimensions."""
MEAN = Kind("mean", __name__)

Function = Callable[..., Any]
Window = Mapping[str, OptionType]

_WINDOW = {"kernel_size": COUNTS, "stride": optional(COUNTS).by_default(None), "padding": SIZES.by_default(0)}
_MAXIMUM = {**_WINDOW, "dilation": COUNTS.by_default(1), "ceil_mode": FLAG.by_default(False)}
_AVERAGE = {**_WINDOW, "ceil_mode": FLAG.by_default(False), "count_include_pad": FLAG.by_default(True)}
_AVERAGE_OF_MANY = {**_AVERAGE, "divisor_override": optional(COUNT).by_default(None)}
_ADAPTIVE = {"output_size": either(COUNT, several(optional(COUNT)))}


def _average(chosen: Options, given: Given, kind: Kind, function: Function) -> Operation:
    return Operation(name=kind.name, function=function, options=chosen, kind=kind)


def _maximum(chosen: Options, given: Given, kind: Kind, function: Function, dimensions: int) -> Operation:
    return Operation(
        name=kind.name,
        function=function,
        options=chosen,
        linear=False,
        routed=True,
        choose=partial(_winners, function=function),
        take=partial(taken, dimensions=dimensions),
        kind=kind,
    )


def _winners(a: Tensor, function: Function, **chosen: Any) -> Tensor:
    winners: Tensor = function(a, return_indices=True, **chosen)[1]
    return winners


def _read(call: Call, form: Form[Operation]) -> Reading | Refusal:
    if call.option("return_indices", False):
        return Refusal("return_indices=True: the winners' indices are not part of an energy")
    if not call.constants(*form.options):
        return Refusal("its window is computed at run time")
    chosen = call.options(form.options)
    if chosen.get("stride") == ():
        chosen["stride"] = None
    return Reading(operands=(call.operand(),), operation=form(chosen))


_SHAPES = {1: (2, 3, 8), 2: (2, 3, 8, 6), 3: (2, 2, 4, 4, 4)}


def _rule(d: int, kind: Kind, module: str, form: Form[Operation], summary: str, *others: Function) -> Rule:
    """``others``: spellings besides that of ``torch.nn.functional``."""
    class_ = getattr(nn, f"{module}{d}d")
    return Rule(
        kind.name,
        Role.COUPLING,
        partial(_read, form=form),
        summary,
        modules=(class_,),
        functions=(getattr(F, kind.name), *others),
        signature=("input", *form.options),
        examples=((lambda: class_(2), _SHAPES[d]),),
        forms={kind: (form,)},
    )


def _maxima(d: int, kind: Kind, module: str, window: Window, summary: str, *others: Function) -> Rule:
    make = partial(_maximum, kind=kind, function=getattr(F, kind.name), dimensions=d)
    return _rule(d, kind, module, Form(make, window), summary, *others)


def _averages(d: int, kind: Kind, module: str, window: Window, summary: str) -> Rule:
    exported = getattr(aten, kind.name).default
    make = partial(_average, kind=kind, function=getattr(F, kind.name))
    return _rule(d, kind, module, Form(make, window), summary, exported)


def _maximum_spellings(kind: Kind) -> tuple[Function, Function]:
    return getattr(torch, kind.name), getattr(aten, kind.name).default


_HELD = "maximum over windows; its winners are held while nudged"


def _over_dimensions(chosen: Options, given: Given = ()) -> Operation:
    text, tex = "mean({0})", r"\mathrm{{mean}}({0})"
    return Operation(name=MEAN.name, function=torch.mean, options=chosen, text=text, tex=tex, kind=MEAN)


def _mean(call: Call) -> Reading | Refusal:
    dims = call.option("dim", None)
    if dims is None or call.arguments.get("dtype") is not None or not call.constants("dim", "keepdim"):
        return Refusal("a mean over everything, or into another type, mixes the samples")
    chosen = (dims,) if isinstance(dims, int) else tuple(dims)
    if 0 in chosen:
        return Refusal("a mean over the batch mixes the samples")
    keep = bool(call.option("keepdim", False))
    return Reading(
        operands=(call.operand(),),
        operation=_over_dimensions(dict(dim=chosen, keepdim=keep)),
        keeps_batch=all(d > 0 for d in chosen),  # one that counts from the end may be the first
    )


RULES: tuple[Rule, ...] = (
    *(_maxima(d, kind, "MaxPool", _MAXIMUM, _HELD, *_maximum_spellings(kind)) for d, kind in MAXIMA.items()),
    *(
        _averages(d, kind, "AvgPool", _AVERAGE if d == 1 else _AVERAGE_OF_MANY, "mean over windows")
        for d, kind in AVERAGES.items()
    ),
    *(
        _maxima(d, kind, "AdaptiveMaxPool", _ADAPTIVE, "maximum over adaptive windows")
        for d, kind in ADAPTIVE_MAXIMA.items()
    ),
    *(
        _averages(d, kind, "AdaptiveAvgPool", _ADAPTIVE, "mean over adaptive windows")
        for d, kind in ADAPTIVE_AVERAGES.items()
    ),
    Rule(
        "mean",
        Role.COUPLING,
        _mean,
        "mean over dimensions other than the batch",
        functions=(torch.mean, aten.mean.dim),
        methods=("mean",),
        signature=("input", "dim", "keepdim", "dtype"),
        forms={MEAN: (Form(_over_dimensions, {"dim": several(DIMENSION), "keepdim": FLAG}),)},
    ),
)
