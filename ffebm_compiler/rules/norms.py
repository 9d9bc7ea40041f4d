"""Batch norm with its running statistics held is affine: ``scale * (a - mean) / sqrt(var + eps) + shift``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..ir import Kind, Operation, Options, Weight
from ..ir.functions import held_norm
from .forms import Form, Given
from .option_types import NUMBER
from .rule import Call, Reading, Refusal, Role, Rule, nodes_of

aten = torch.ops.aten

BATCH_NORM = Kind("batch_norm", __name__)


def _held(chosen: Options, given: Given = ()) -> Operation:
    return Operation(name=BATCH_NORM.name, function=held_norm, options=chosen, text="{layer}({0})", kind=BATCH_NORM)


_FORMS = {BATCH_NORM: (Form(_held, {"eps": NUMBER}, (5, 5)),)}


def _batch_norm(call: Call) -> Reading | Refusal:
    mean, variance = call.weight("running_mean"), call.weight("running_var")
    if not isinstance(mean, Weight) or not isinstance(variance, Weight):
        return Refusal("it keeps no running statistics, so it couples the samples of a batch")
    scale, shift = call.weight("weight"), call.weight("bias")
    return Reading(
        operands=(call.operand(), mean, variance, scale, shift),
        operation=_held(dict(eps=call.option("eps", 1e-5))),
        given=nodes_of(scale, shift),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "batch_norm",
        Role.NORM,
        _batch_norm,
        "batch norm, with its running statistics held",
        modules=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        functions=(F.batch_norm,),
        signature=("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
        examples=((lambda: nn.BatchNorm2d(3), (2, 3, 4, 4)),),
        forms=_FORMS,
    ),
    Rule(
        "batch_norm_function",
        Role.NORM,
        _batch_norm,
        "batch norm, with its running statistics held",
        functions=(torch.batch_norm, aten.batch_norm.default),
        signature=("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
        forms=_FORMS,
    ),
)
