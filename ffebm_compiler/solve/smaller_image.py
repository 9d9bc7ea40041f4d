"""Couplings that do everywhere in an image what they do in one place: their norms are measured on a smaller one.

Without its borders such a coupling acts at each frequency t by a matrix K(t), a trigonometric polynomial whose degree e is its extent less one pixel,
and ``|J|^2 = max |K(t)|^2``. On an image of n pixels a side a vector can't be of one frequency alone. That costs at most, by Bernstein's inequality for
``|K(t) u|^2`` and with half a sine as the window, of every dimension

    1 - |J_n|^2 / |J|^2 <= e^2 / 2 (pi / (n + 1))^2

so ``n = ENOUGH e`` pixels leave one percent of the squared norm in each dimension, whatever the weights. So what is derived at a first use does not
grow with images, and large images of all sizes share it.

A linear coupling of degree zero and stride one is one matrix on every pixel. Its norm is the same on any number of them, so a few do, whatever
images the other couplings of its block need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FFEBMError
from ..ir import Coupling, Operand, State, Term, Weight, functions
from .binding import BoundBlock, States
from .derivatives.products import CONVOLUTIONS, sizes

ENOUGH = 22
"""Pixels for each pixel of a coupling's degree."""

LEAST = 8
"""Pixels where every pixel is on its own."""

FEW = 4
"""Pixels a side for one coupling alone that is one matrix on every pixel: enough for a random start to hold its share of every direction."""

WORTH = 0.7
"""A smaller image has at most this part of the pixels."""

Window = tuple[float, float, float]
"""Along one dimension, in pixels of what an operation reads: the first and the last that its first value reads, and the stride."""

HERE: Window = (0.0, 0.0, 1.0)
"""Of what takes every pixel for itself."""

_POINTWISE = {
    functions.held_norm, functions.added, functions.shifted, functions.reflected, functions.multiple, functions.quotient,
    Tensor.contiguous, F.gelu, F.silu, F.mish, F.hardswish, torch.sin, torch.cos,
}  # fmt: skip
_POOLS = {getattr(F, f"{kind}_pool{d}d"): d for kind in ("avg", "max") for d in (1, 2, 3)}


@dataclass(frozen=True)
class _Reach:
    """How far a value reaches back into a source, along each dimension, in pixels of that.

    Attributes:
        first, last: the pixels there that the first one here reads: two ways to a value may begin in different places.
        jumps: how far apart there two neighbours are here.
    """

    first: tuple[float, ...]
    last: tuple[float, ...]
    jumps: tuple[float, ...]

    @property
    def degrees(self) -> tuple[float, ...]:
        """The extents, less one pixel."""
        return tuple(b - a for a, b in zip(self.first, self.last, strict=True))

    def then(self, windows: Sequence[Window]) -> _Reach:
        first, last, strides = zip(*windows, strict=True)
        return _Reach(
            tuple(a + more * jump for a, jump, more in zip(self.first, self.jumps, first, strict=True)),
            tuple(b + more * jump for b, jump, more in zip(self.last, self.jumps, last, strict=True)),
            tuple(jump * stride for jump, stride in zip(self.jumps, strides, strict=True)),
        )

    def joined(self, other: _Reach) -> _Reach:
        return _Reach(
            tuple(map(min, self.first, other.first)),
            tuple(map(max, self.last, other.last)),
            tuple(map(max, self.jumps, other.jumps)),
        )


def on_smaller_image(bound: BoundBlock, states: States) -> tuple[BoundBlock, States]:
    """A block on a smaller image with the norms of this one, to within a percent, and its states there.

    Args:
        states: those of the feedforward pass; both are given back where there is no smaller image, or none is known.
    """
    images = [v for v in bound.inputs.values() if isinstance(v, Tensor)]
    if not images or len({v.shape[2:] for v in images}) != 1 or not images[0].dim() > 2:
        return bound, states
    needed = _needed(bound, images[0].dim() - 2)
    if not needed:
        return bound, states
    try:
        return _shrunk(bound, states, needed)
    except FFEBMError:  # of a size that is written down somewhere
        return bound, states


def _shrunk(bound: BoundBlock, states: States, needed: Mapping[str, tuple[float, ...]]) -> tuple[BoundBlock, States]:
    full = {n: s.shape[2:] for n, s in states.items()}
    size = next(v.shape[2:] for v in bound.inputs.values() if isinstance(v, Tensor))
    parts = [max(pixels[i] / full[n][i] for n, pixels in needed.items()) for i in range(len(size))]
    smaller = [min(n, math.ceil(part * n)) for part, n in zip(parts, size, strict=True)]
    while math.prod(smaller) <= WORTH * math.prod(size):
        shrunk = replace(bound, inputs={n: _cut(v, smaller) for n, v in bound.inputs.items()}, fixed={})
        now = shrunk.feedforward()
        lacking = [
            any(now[n].shape[2 + i] < min(pixels[i], full[n][i]) for n, pixels in needed.items())
            for i in range(len(size))
        ]
        if not any(lacking):
            return shrunk, now
        smaller = [n + lacks for n, lacks in zip(smaller, lacking, strict=True)]
    return bound, states


def on_few_pixels(bound: BoundBlock, state: State, states: States) -> tuple[BoundBlock, States] | None:
    """A block of one state alone, on a few pixels of what its drive reads, with the norms of its couplings, and the states there.

    None where its drive is not one matrix on every pixel, or the images are that small already.
    """
    drive, images = state.drive, [states[n] for n in state.drive.sources]
    if not images or not drive.is_linear or drive.is_routed or len({v.shape[2:] for v in images}) > 1:
        return None
    size = images[0].shape[2:]
    few = [min(n, FEW) for n in size]
    if math.prod(few) > WORTH * math.prod(size) or not _is_alike(drive, bound.weights, len(size)):
        return None

    def cut(value: Any) -> Any:
        return _cut(value, few) if isinstance(value, Tensor) and value.shape[2:] == size else value

    inputs = {n: cut(bound.inputs[n]) for n in drive.inputs}
    alone = replace(bound, block=bound.block.alone(state.name), inputs=inputs, fixed={})
    read = {n: cut(states[n]) for n in drive.sources}
    try:
        return alone, {**read, state.name: alone.drive(state, read)}
    except FFEBMError:  # of a size that is written down somewhere
        return None


def _is_alike(coupling: Coupling, weights: Mapping[str, Tensor], dimensions: int) -> bool:
    """Whether every term takes each pixel of its values to the same pixel, alike everywhere."""
    moving = [t for t in coupling.terms if any(isinstance(o, str) for o in t.operands)]
    return all(_windows(t, weights, dimensions) == [HERE] * dimensions for t in moving)


def _cut(value: Any, size: Sequence[int]) -> Any:
    for dim, length in enumerate(size, 2) if isinstance(value, Tensor) else ():
        value = value.narrow(dim, 0, length)
    return value


def _needed(bound: BoundBlock, dimensions: int) -> dict[str, tuple[float, ...]] | None:
    """By state that others read, the pixels that it has to have; None where a coupling is not the same everywhere."""
    needed: dict[str, tuple[float, ...]] = {}
    for state in bound.block.states:
        for source in state.drive.sources:
            reach = _reach(state.drive, source, bound.weights, dimensions)
            if reach is None:
                return None
            pixels = tuple(max(LEAST, ENOUGH * d) for d in reach.degrees)
            needed[source] = tuple(map(max, needed.get(source, pixels), pixels))
    return needed


def _reach(coupling: Coupling, source: str, weights: Mapping[str, Tensor], dimensions: int) -> _Reach | None:
    reached: dict[Operand, _Reach] = {source: _Reach((0.0,) * dimensions, (0.0,) * dimensions, (1.0,) * dimensions)}
    for term in coupling.terms:
        read = [reached[o] for o in term.operands if o in reached]
        if not read:
            continue
        windows = _windows(term, weights, dimensions)
        if windows is None:
            return None
        joined = read[0]
        for other in read[1:]:
            joined = joined.joined(other)
        reached[term.name] = joined.then(windows)
    return reached.get(coupling.output)


def _windows(term: Term, weights: Mapping[str, Tensor], dimensions: int) -> Sequence[Window] | None:
    """Along each dimension; None of an operation that is not known to be the same everywhere."""
    function, options = functions.identity_of(term.operation.function), term.operation.options
    if function in CONVOLUTIONS and isinstance(weight := term.operands[1], Weight):
        d, transposed = CONVOLUTIONS[function]
        kernel = weights[weight.path].shape[2:]
        windows = _along(d, kernel, options["stride"], options["dilation"], options["padding"])
        found = [(-last / s, -first / s, 1 / s) for first, last, s in windows] if transposed else windows
    elif function in _POOLS:
        d, kernel = _POOLS[function], options["kernel_size"]
        windows = _along(d, kernel, options["stride"] or kernel, options.get("dilation", 1), options["padding"])
        found = [] if options["ceil_mode"] else windows  # the last one may have fewer pixels, as the size has it
    elif function is F.pad:
        d, found = dimensions, _moved(options["pad"], dimensions)
    else:
        alike = function in _POINTWISE or (function in _ALIKE and _ALIKE[function](term))
        d, found = dimensions, [HERE] * dimensions if alike else []
    return found if d == dimensions and found else None


def _along(d: int, kernel: Any, stride: Any, dilation: Any, padding: Any) -> list[Window]:
    extents = [dilated * (k - 1) for k, dilated in zip(sizes(kernel, d), sizes(dilation, d), strict=True)]
    before = [0] * d if padding == "valid" else [e // 2 for e in extents] if padding == "same" else sizes(padding, d)
    return [(-p, e - p, s) for p, e, s in zip(before, extents, sizes(stride, d), strict=True)]


def _moved(pad: Sequence[int], d: int) -> list[Window]:
    """Of a padding, which is given from the last dimension on."""
    before = [*pad[::2], *[0] * d][:d]
    return [(-p, -p, 1.0) for p in reversed(before)]


_ALIKE: Mapping[Callable[..., Any], Callable[[Term], bool]] = {
    functions.concatenated: lambda term: term.operation.options["dim"] == 1,
    torch.mul: lambda term: any(isinstance(o, Weight) for o in term.operands),
}
"""Operations that are the same everywhere if their options or operands are so."""
