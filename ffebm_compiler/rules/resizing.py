"""Couplings that change the size of an image: padding, upsampling, channels to space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir import Kind
from .one_operand import coupling
from .option_types import COUNT, COUNTS, FLAG, NUMBER, OFFSET, POSITIVE, either, one_of, optional, several
from .rule import Call, Reading, Refusal, Role, Rule, options
from .shapes import moving

aten = torch.ops.aten

PAD, UPSAMPLE, PIXEL_SHUFFLE = (Kind(name, __name__) for name in ("pad", "upsample", "pixel_shuffle"))


_EXPORTED: dict[str, Callable[..., Any]] = {
    "nearest1d": aten.upsample_nearest1d.vec,
    "nearest2d": aten.upsample_nearest2d.vec,
    "nearest3d": aten.upsample_nearest3d.vec,
    "linear1d": aten.upsample_linear1d.vec,
    "bilinear2d": aten.upsample_bilinear2d.vec,
    "trilinear3d": aten.upsample_trilinear3d.vec,
    "bicubic2d": aten.upsample_bicubic2d.vec,
}
_NEAREST_MODES = ("nearest1d", "nearest2d", "nearest3d")
_SMOOTH_MODES = tuple(mode for mode in _EXPORTED if mode not in _NEAREST_MODES)


def _mode_of(call: Call) -> str:
    return next(mode for mode, function in _EXPORTED.items() if function is call.node.target)


def _exported(
    a: Tensor,
    mode: str,
    output_size: tuple[int, ...] | None,
    scale_factors: tuple[float, ...] | None,
    align_corners: bool | None = None,
) -> Tensor:
    corners = () if align_corners is None else (align_corners,)
    resized: Tensor = _EXPORTED[mode](a, output_size, *corners, scale_factors)
    return resized


_FACTORS = either(POSITIVE, several(POSITIVE))
_MODES = one_of("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area")
_SIZE = dict(
    mode=_MODES.by_default("nearest"),
    size=optional(COUNTS).by_default(None),
    scale_factor=optional(_FACTORS).by_default(None),
    align_corners=optional(FLAG).by_default(None),
    recompute_scale_factor=optional(FLAG).by_default(None),
)
_TO_SIZE = dict(output_size=optional(several(COUNT)), scale_factors=optional(several(POSITIVE)))

_PAD = moving(PAD, F.pad, pad=several(OFFSET), value=NUMBER)
_PLAIN = moving(UPSAMPLE, F.interpolate, **_SIZE)
_ANTIALIASED = moving(UPSAMPLE, F.interpolate, **_SIZE, antialias=FLAG)
_NEAREST = moving(UPSAMPLE, _exported, mode=one_of(*_NEAREST_MODES), **_TO_SIZE)
_SMOOTH = moving(UPSAMPLE, _exported, mode=one_of(*_SMOOTH_MODES), **_TO_SIZE, align_corners=FLAG)
_UPSAMPLE = {UPSAMPLE: (_PLAIN, _ANTIALIASED, _NEAREST, _SMOOTH)}


def _pad(call: Call) -> Reading | Refusal:
    mode, value = call.option("mode", "constant"), call.option("value", None)
    if mode != "constant" or not call.constants("pad", "padding", "value"):
        return Refusal(f"padding in mode {mode!r} has no rule")
    pad = call.option("padding", None) if call.module is not None else call.arguments["pad"]
    return Reading(
        operands=(call.operand(),),
        operation=_PAD(options(pad=pad, value=value or 0.0)),
    )


def _upsample(call: Call) -> Reading | Refusal:
    if not call.constants("size", "scale_factor"):
        return Refusal("its size is computed at run time")
    form = _ANTIALIASED if call.option("antialias", False) else _PLAIN
    return Reading(operands=(call.operand(),), operation=form(call.options(form.options)))


def _upsample_exported(call: Call) -> Reading | Refusal:
    if not call.constants("output_size", "scale_factors"):
        return Refusal("its size is computed at run time")
    chosen = {k: v for k, v in call.arguments.items() if k != "input"}
    form = _SMOOTH if "align_corners" in chosen else _NEAREST
    return Reading(operands=(call.operand(),), operation=form(options(mode=_mode_of(call), **chosen)))


RULES: tuple[Rule, ...] = (
    Rule(
        "pad",
        Role.COUPLING,
        _pad,
        "padding with a constant",
        modules=(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
        functions=(F.pad, aten.pad.default, aten.constant_pad_nd.default),
        signature=("input", "pad", "mode", "value"),
        examples=((lambda: nn.ZeroPad2d(1), (2, 3, 4, 4)),),
        forms={PAD: (_PAD,)},
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
        forms=_UPSAMPLE,
    ),
    Rule(
        "upsample_nearest",
        Role.COUPLING,
        _upsample_exported,
        "nearest upsampling, as torch.export writes it",
        functions=tuple(_EXPORTED[mode] for mode in _NEAREST_MODES),
        signature=("input", "output_size", "scale_factors"),
        forms=_UPSAMPLE,
    ),
    Rule(
        "upsample_linear",
        Role.COUPLING,
        _upsample_exported,
        "linear and cubic upsampling, as torch.export writes it",
        functions=tuple(_EXPORTED[mode] for mode in _SMOOTH_MODES),
        signature=("input", "output_size", "align_corners", "scale_factors"),
        forms=_UPSAMPLE,
    ),
    coupling(
        PIXEL_SHUFFLE,
        moving(PIXEL_SHUFFLE, F.pixel_shuffle, upscale_factor=COUNT),
        "channels to space",
        functions=(F.pixel_shuffle, aten.pixel_shuffle.default),
        layer=(lambda: nn.PixelShuffle(2), (2, 4, 3, 3)),
    ),
)
