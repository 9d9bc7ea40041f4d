"""Operations that pass their operand through, and are dropped; dropout is one where nothing drops."""

from __future__ import annotations

import torch
from torch import nn

from .rule import Call, Reading, Refusal, Role, Rule

aten = torch.ops.aten


def _passes(call: Call) -> Reading | Refusal:
    return Reading(operands=(call.operand(),))


def _no_dropout(call: Call) -> Reading | Refusal:
    p = call.option("p", 0.5)
    if p == 0:
        return Reading(operands=(call.operand(),))
    return Refusal("random: an equilibrium has no energy that changes from sample to sample")


RULES: tuple[Rule, ...] = (
    Rule(
        "identity",
        Role.IDENTITY,
        _passes,
        "dropped",
        modules=(nn.Identity,),
        functions=(aten.clone.default, aten.alias.default),
        methods=("clone",),
    ),
    Rule(
        "dropout",
        Role.IDENTITY,
        _no_dropout,
        "dropped where p = 0; otherwise digital",
        modules=(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    ),
)
