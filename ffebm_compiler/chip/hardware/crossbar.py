"""The devices of one weight: ``w = gain (T+ - T-) / scale``.

Every weight is a differential pair of conductances, tile by tile on a scale of its own: the largest ``|w|`` of a tile
is written as the whole range ``g_max - g_min``. ``T`` is the drifted conductance, less what the wires take; ``gain`` is
1, or the compensation of the tile's mean drift. A feedback that runs through the same devices sees the transpose,
exactly (reciprocity). A bias is a matrix of one row with its own scale, driven by a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor

from ...errors import InputError, Problem
from .devices import Devices, drifted, manufacture, read_deviation
from .lines import pair_transfer
from .mapping import Tiling
from .specification import Hardware
from .writing import around_stuck, pair_of, write_pairs


@dataclass(frozen=True)
class Crossbar:
    """A weight in devices.

    Attributes:
        devices: the pairs, ``(2, groups, rows, columns)``: positive, negative.
        scale: S per unit of weight, ``(groups, row tiles, column tiles)``.
        tiling: how the matrix is cut into tiles.
    """

    devices: Devices
    scale: Tensor
    tiling: Tiling

    @property
    def positive(self) -> Tensor:
        """As written, in S: ``(groups, rows, columns)``."""
        return self.devices.conductance[0]

    @property
    def negative(self) -> Tensor:
        return self.devices.conductance[1]

    @property
    def aim(self) -> Tensor:
        """The matrix that the devices were told to hold, in units of the weight: to the levels that there are."""
        target = self.devices.target
        return (target[0] - target[1]) / self.tiling.spread(self.scale)

    def weights(self, hardware: Hardware) -> Tensor:
        """The matrix ``(groups, rows, columns)`` that the array multiplies by at the chip's age."""
        positive, negative = self.conductances(hardware)
        return (positive - negative) / self._divisor(hardware)

    def deviations(self, hardware: Hardware) -> Tensor:
        """The standard deviation of each weight from read to read."""
        if hardware.read_noise == 0:
            return torch.zeros_like(self.positive)
        noise = read_deviation(self.devices, hardware)
        if (
            hardware.line_resistance > 0
        ):  # a device behind resistive wires is seen, and so is its noise, by the part T/g
            ideal = drifted(self.devices, hardware)
            seen = pair_transfer(ideal, hardware.line_resistance, self.tiling)
            noise = noise * torch.where(ideal > 0, seen / ideal, 1.0)
        return torch.hypot(noise[0], noise[1]) / self._divisor(hardware)

    def conductances(self, hardware: Hardware) -> tuple[Tensor, Tensor]:
        """``T+`` and ``T-`` in S at the chip's age, before any compensation."""
        seen = pair_transfer(drifted(self.devices, hardware), hardware.line_resistance, self.tiling)
        return seen[0], seen[1]

    def pair(self, hardware: Hardware) -> tuple[Tensor, Tensor]:
        """Positive and negative part in units of weight: their difference is :meth:`weights`."""
        positive, negative = self.conductances(hardware)
        divisor = self._divisor(hardware)
        return positive / divisor, negative / divisor

    def gain(self, hardware: Hardware) -> Tensor:
        """Of each tile: its mean conductance as programmed, relative to the drifted one; 1 without compensation."""
        if not hardware.drift_compensation or hardware.age <= hardware.drift_start:
            return torch.ones_like(self.scale)
        before, after = (self._per_tile(g) for g in (self.devices.conductance, drifted(self.devices, hardware)))
        return torch.where(after > 0, before / after, 1.0)

    def write(self, change: Tensor, hardware: Hardware, writing: Generator) -> tuple[Crossbar, Tensor]:
        """This array after a change of weights, and the change that the controller believes it has made.

        Pulses and quantised writes end at the bounds of the devices. An ideal write has no bounds: a tile whose range
        is full is written anew, exactly, on another scale.
        """
        ideal = hardware.write == "ideal"
        array = self._with_room(change, hardware) if ideal else self
        scale = self.tiling.spread(array.scale)
        devices, made = write_pairs(array.devices, change.to(scale) * scale, hardware, writing)
        return replace(array, devices=devices), change if ideal else made / scale

    def to(self, device: torch.device | str) -> Crossbar:
        return _built({k: v.to(device) for k, v in self.arrays().items()}, self.tiling)

    def arrays(self) -> dict[str, Tensor]:
        """All that :func:`from_arrays` needs beside the specification."""
        devices = {f.name: getattr(self.devices, f.name) for f in fields(Devices)}
        return {"scale": self.scale, **{k: v for k, v in devices.items() if v is not None}}

    def _with_room(self, change: Tensor, hardware: Hardware) -> Crossbar:
        """The same weights on scales under which those to be changed fit; pairs with a stuck device don't count."""
        stuck = self.devices.stuck
        now = self.devices.conductance[0] - self.devices.conductance[1]
        free = now if stuck is None else torch.where((stuck == 0).all(0), now, 0.0)
        moving = change.to(now) * self.tiling.spread(self.scale) * (1 if stuck is None else (stuck == 0).all(0))
        full = self._largest(torch.where(moving == 0, 0.0, free + moving)) > hardware.g_max - hardware.g_min
        if not bool(full.any()):
            return self
        # written anew, a tile must hold its other weights too, of which some were programmed beyond the range
        needed = torch.maximum(self._largest(free + moving), self._largest(free))
        shrink = torch.where(full, (hardware.g_max - hardware.g_min) / needed, 1.0)
        factor = self.tiling.spread(shrink)
        pair = around_stuck(pair_of(now * factor, hardware), now * factor, stuck, hardware)
        anew = torch.where(factor < 1, pair, self.devices.conductance)
        return replace(self, devices=replace(self.devices, conductance=anew, target=anew), scale=self.scale * shrink)

    def _largest(self, matrix: Tensor) -> Tensor:
        """The largest magnitude in each tile."""
        return self.tiling.blocks(matrix.abs()).amax((-3, -1))

    def _divisor(self, hardware: Hardware) -> Tensor:
        """S per unit of weight, after compensation, of every device."""
        return self.tiling.spread(self.scale / self.gain(hardware))

    def _per_tile(self, pair: Tensor) -> Tensor:
        return self.tiling.blocks(pair).sum((0, -3, -1))


def program(matrix: Tensor, hardware: Hardware, devices: Generator, writing: Generator) -> Crossbar:
    """New devices that hold a matrix ``(groups, rows, columns)``, in float32 or float64.

    What the devices are (stuck, their drift, their steps) is drawn from ``devices``, the error of writing them from
    ``writing``: the same ``devices`` with another ``writing`` is the same array, programmed again.
    """
    matrix = matrix.detach()
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    tiling = tiling_of(matrix, hardware)
    scale = _scales(matrix, tiling, hardware)
    target = pair_of(matrix * tiling.spread(scale), hardware)
    return Crossbar(manufacture(target, hardware, devices, writing), scale, tiling)


def tiling_of(matrix: Tensor, hardware: Hardware) -> Tiling:
    groups, rows, columns = matrix.shape
    return Tiling(groups, rows, columns, hardware.tile_rows, hardware.tile_columns)


def _scales(matrix: Tensor, tiling: Tiling, hardware: Hardware) -> Tensor:
    """S per unit of weight: a tile's largest takes the range less the headroom; zeros take the matrix's, or 1."""
    largest = tiling.blocks(matrix.abs()).amax((-3, -1))
    overall = largest.amax()
    fallback = torch.where(overall > 0, overall, 1.0)
    tiny = torch.finfo(matrix.dtype).tiny
    reach = hardware.weight_headroom * torch.where(largest > 0, largest, fallback)
    return (hardware.g_max - hardware.g_min) / reach.clamp(min=tiny)


# --- from a file --------------------------------------------------------------------------------------


def from_arrays(arrays: Mapping[str, Tensor], shape: tuple[int, int, int], hardware: Hardware, where: str) -> Crossbar:
    """The array that :meth:`Crossbar.arrays` was taken from; ``where`` names its layer in errors.

    Raises:
        InputError: for what is missing, unknown, misshapen, not finite or out of range.
    """
    tiling = Tiling(*shape, hardware.tile_rows, hardware.tile_columns)
    InputError.raise_if(_array_problems(arrays, tiling, hardware, where))
    return _built(arrays, tiling)


def _built(arrays: Mapping[str, Tensor], tiling: Tiling) -> Crossbar:
    devices = Devices(**{f.name: arrays[f.name] for f in fields(Devices) if f.name in arrays})
    return Crossbar(devices, arrays["scale"], tiling)


def _expected(hardware: Hardware) -> dict[str, bool]:
    """The arrays that a chip of this specification has, and whether they must be there."""
    return {
        "scale": True,
        "conductance": True,
        "target": True,
        "stuck": hardware.stuck_low > 0 or hardware.stuck_high > 0,
        "drift_score": hardware.drift_spread != 0,
        "step_factor": hardware.step_variation > 0,
    }


def _array_problems(arrays: Mapping[str, Tensor], tiling: Tiling, hardware: Hardware, where: str) -> Iterator[Problem]:
    remedy = "The file is damaged or belongs to another chip: save it again from the chip that it describes."
    expected = _expected(hardware)
    for name in sorted(set(arrays) - set(expected)):
        yield Problem(where, f"has an unknown array {name!r}", remedy)
    for name, needed in expected.items():
        if name not in arrays:
            if needed:
                yield Problem(where, f"has no array {name!r}", remedy)
            continue
        what = _array_problem(name, arrays[name], tiling)
        if what is not None:
            yield Problem(f"{where}, array {name}", what, remedy)


def _array_problem(name: str, value: Tensor, tiling: Tiling) -> str | None:
    shape = tiling.shape if name == "scale" else (2, tiling.groups, tiling.rows, tiling.columns)
    if tuple(value.shape) != shape:
        return f"has the shape {tuple(value.shape)} instead of {shape}"
    kinds = (torch.int8,) if name == "stuck" else (torch.float32, torch.float64)
    if value.dtype not in kinds:
        return f"is of type {value.dtype} instead of {' or '.join(map(str, kinds))}"
    if not value.isfinite().all():
        return "has values that are not finite"
    if name == "stuck":
        return None if bool((value.abs() <= 1).all()) else "has values other than -1, 0 and 1"
    if name != "drift_score" and bool((value < 0).any()):
        return "has negative values"
    return "has a scale of 0" if name == "scale" and bool((value == 0).any()) else None
