"""Couplings that change the size of an image: padding, upsampling, channels to space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ir import Operation
from .rule import Call, Reading, Refusal, Role, Rule, options
from .shapes import rearrangement

aten = torch.ops.aten


def _pad(call: Call) -> Reading | Refusal:
    mode, value = call.option("mode", "constant"), call.option("value", None)
    if mode != "constant" or not call.constants("pad", "padding", "value"):
        return Refusal(f"padding in mode {mode!r} has no rule")
    pad = call.option("padding", None) if call.module is not None else call.arguments["pad"]
    return Reading(
        operands=(call.as_operand(call.value()),),
        operation=Operation(
            name="pad",
            function=F.pad,
            options=options(pad=pad, value=value or 0.0),
            text="pad({0})",
            tex=r"\mathrm{{pad}}({0})",
        ),
    )


def _upsample(call: Call) -> Reading | Refusal:
    if not call.constants("size", "scale_factor"):
        return Refusal("its size is computed at run time")
    chosen = {k: call.option(k, None) for k in ("size", "scale_factor", "align_corners", "recompute_scale_factor")}
    mode = call.option("mode", "nearest")
    if call.option("antialias", False):
        chosen["antialias"] = True
    return Reading(
        operands=(call.as_operand(call.value()),),
        operation=Operation(
            name="upsample",
            function=F.interpolate,
            options=options(mode=mode, **chosen),
            text="upsample({0})",
            tex=r"\mathrm{{upsample}}({0})",
        ),
    )


def _upsample_exported(call: Call) -> Reading | Refusal:
    if not call.constants("output_size", "scale_factors"):
        return Refusal("its size is computed at run time")
    chosen = {k: v for k, v in call.arguments.items() if k != "input"}
    return Reading(
        operands=(call.as_operand(call.value()),),
        operation=Operation(
            name="upsample",
            function=_target(call),
            options=options(**chosen),
            text="upsample({0})",
            tex=r"\mathrm{{upsample}}({0})",
        ),
    )


def _target(call: Call) -> Callable[..., Any]:
    assert callable(call.node.target)
    return call.node.target


RESIZING_RULES: tuple[Rule, ...] = (
    Rule(
        "pad",
        Role.COUPLING,
        _pad,
        "padding with a constant",
        modules=(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
        functions=(F.pad, aten.pad.default, aten.constant_pad_nd.default),
        signature=("input", "pad", "mode", "value"),
        examples=((lambda: nn.ZeroPad2d(1), (2, 3, 4, 4)),),
    ),
    Rule(
        "upsample",
        Role.COUPLING,
        _upsample,
        "nearest, linear or cubic upsampling",
        modules=(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        functions=(F.interpolate, F.upsample),
        signature=("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
        examples=(
            (lambda: nn.Upsample(scale_factor=2), (2, 3, 4, 4)),
            (lambda: nn.UpsamplingBilinear2d(scale_factor=2), (2, 3, 4, 4)),
        ),
    ),
    Rule(
        "upsample_nearest",
        Role.COUPLING,
        _upsample_exported,
        "nearest upsampling, as torch.export writes it",
        functions=(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec),
        signature=("input", "output_size", "scale_factors"),
    ),
    Rule(
        "upsample_linear",
        Role.COUPLING,
        _upsample_exported,
        "linear and cubic upsampling, as torch.export writes it",
        functions=(
            aten.upsample_linear1d.vec,
            aten.upsample_bilinear2d.vec,
            aten.upsample_trilinear3d.vec,
            aten.upsample_bicubic2d.vec,
        ),
        signature=("input", "output_size", "align_corners", "scale_factors"),
    ),
    Rule(
        "pixel_shuffle",
        Role.COUPLING,
        rearrangement("pixel_shuffle", F.pixel_shuffle, dict(upscale_factor=...), lambda o: True),
        "channels to space",
        modules=(nn.PixelShuffle,),
        functions=(F.pixel_shuffle, aten.pixel_shuffle.default),
        signature=("input", "upscale_factor"),
        examples=((lambda: nn.PixelShuffle(2), (2, 4, 3, 3)),),
    ),
)
