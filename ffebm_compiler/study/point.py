"""A point of a study: values of the swept fields, and a chip's seed; with what was measured there, a record.

A grid is the product of the axes; one at a time, each axis varies alone around the base.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..chip.hardware import Hardware
from ..errors import OptionError
from .metrics import Measured
from .sweep import CONVERSION, Axis, Value

Settings = tuple[tuple[str, Value], ...]
"""Swept names and their values, in the order of the axes."""


@dataclass(frozen=True)
class Point:
    """One measurement to make.

    Attributes:
        settings: the swept fields' values; a field that is not named has its base value.
        chip: the chip's seed, which draws its devices.
    """

    settings: Settings
    chip: int

    @property
    def key(self) -> str:
        """The same in every run: ``read_noise=0.01 adc_bits=8 chip=2``."""
        return " ".join([*(f"{name}={value!r}" for name, value in self.settings), f"chip={self.chip}"])

    @property
    def conversion(self) -> dict[str, Any]:
        """What is swept of the model's conversion."""
        return {name: value for name, value in self.settings if name in CONVERSION}

    def hardware(self, base: Hardware) -> Hardware:
        """The specification of this point's chip."""
        changed: dict[str, Any] = {name: value for name, value in self.settings if name not in CONVERSION}
        return replace(base, **changed)


@dataclass(frozen=True)
class Record:
    """A point and what was measured there, or why it could not be."""

    point: Point
    metrics: Measured
    error: str | None = None


def grid(axes: Sequence[Axis]) -> Iterator[Settings]:
    """Every combination; the first axis varies slowest."""
    names = [axis.name for axis in axes]
    return (tuple(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes)))


def one_at_a_time(axes: Sequence[Axis]) -> Iterator[Settings]:
    """The base, then each axis alone."""
    yield ()
    yield from (((axis.name, value),) for axis in axes for value in axis.values)


def settings_of(axes: Sequence[Axis], alone: bool) -> Iterator[Settings]:
    return one_at_a_time(axes) if alone else grid(axes)


def count(axes: Sequence[Axis], alone: bool, chips: int) -> int:
    """The number of points, without making them."""
    sizes = [len(axis.values) for axis in axes]
    return chips * (1 + sum(sizes) if alone else math.prod(sizes))


def points(axes: Sequence[Axis], alone: bool, chips: int) -> tuple[Point, ...]:
    """All points: every chip at one setting, then the next setting."""
    return tuple(Point(settings, chip) for settings in settings_of(axes, alone) for chip in range(chips))


def impossible(axes: Sequence[Axis], alone: bool, base: Hardware) -> OptionError | None:
    """The combinations that no chip can have, each problem once: ``g_min`` above ``g_max``."""
    problems = dict.fromkeys(
        problem for settings in settings_of(axes, alone) for problem in _problems(Point(settings, 0), base)
    )
    return OptionError(problems) if problems else None


def _problems(point: Point, base: Hardware) -> Iterator[Any]:
    try:
        point.hardware(base)
    except OptionError as failure:
        yield from failure.problems
