"""Batch norm: with its running statistics held it is an affine coupling, ``scale * (a - mean) / sqrt(var + eps) + shift``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..ir import Operation, Weight
from ..ir.functions import held_norm
from .remake import NUMBER, Given, OperationRemakes, Options, Remake
from .rule import Call, Reading, Refusal, Role, Rule, nodes_of

aten = torch.ops.aten


def _operation(chosen: Options, given: Given = ()) -> Operation:
    return Operation(name="batch_norm", function=held_norm, options=chosen, text="{layer}({0})")


def _batch_norm(call: Call) -> Reading | Refusal:
    mean, variance = call.weight("running_mean"), call.weight("running_var")
    if not isinstance(mean, Weight) or not isinstance(variance, Weight):
        return Refusal("it keeps no running statistics, so it couples the samples of a batch")
    scale, shift = call.weight("weight"), call.weight("bias")
    return Reading(
        operands=(call.as_operand(call.value()), mean, variance, scale, shift),
        operation=_operation(dict(eps=call.option("eps", 1e-5))),
        given=nodes_of(scale, shift),
    )


NORM_RULES: tuple[Rule, ...] = (
    Rule(
        "batch_norm",
        Role.NORM,
        _batch_norm,
        "batch norm, with its running statistics held",
        modules=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        functions=(F.batch_norm,),
        signature=("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
        examples=((lambda: nn.BatchNorm2d(3), (2, 3, 4, 4)),),
    ),
    Rule(
        "batch_norm_function",
        Role.NORM,
        _batch_norm,
        "batch norm, with its running statistics held",
        functions=(torch.batch_norm, aten.batch_norm.default),
        signature=("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    ),
)

NORM_OPERATIONS: OperationRemakes = {"batch_norm": (Remake(_operation, {"eps": NUMBER}, (5, 5)),)}
