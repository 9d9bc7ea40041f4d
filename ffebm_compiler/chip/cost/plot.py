"""A cost as a picture: energy by block and component, and the chip beside digital accelerators (the ``viz`` extra)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ...figures import check_figure_file, new_figure, write_figure
from .units import si


class Energies(Protocol):
    """What is drawn of a :class:`~ffebm_compiler.chip.cost.Cost`."""

    @property
    def hardware(self) -> str: ...
    @property
    def blocks(self) -> Sequence[str]: ...
    @property
    def comparisons(self) -> Sequence[Any]: ...
    def total(self, step: str, *, block: str | None = None, component: str | None = None) -> Any: ...


COLOURS = {
    "array": "#1b9e77",
    "amplifiers": "#66c2a5",
    "DAC": "#fdae61",
    "ADC": "#d95f02",
    "digital": "#7570b3",
    "writing": "#e7298a",
}
"""Of the components."""

FORMATS = (".png", ".svg", ".pdf")

MOST_BLOCKS = 24
"""Bars that a panel shows; further blocks are drawn as one."""


def plot(cost: Energies, path: str | os.PathLike[str]) -> Path:
    """Writes the picture: PNG, SVG or PDF, by the ending.

    Raises:
        OptionError: another ending, a path that can't be written, or no matplotlib.
    """
    target = check_figure_file(Path(path), FORMATS)
    bars = _groups(cost)
    height = max(3.8, 1.9 + 0.34 * len(bars))
    figure = new_figure("a plot of the cost", figsize=(13, height), layout="constrained", dpi=130)
    inference, training, accelerators = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    _by_block(inference, cost, bars, "inference")
    _by_block(training, cost, bars, "training")
    training.tick_params(labelleft=False)
    _beside(accelerators, cost)
    handles, labels = inference.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    known.update(zip(*reversed(training.get_legend_handles_labels()), strict=True))
    order = [c for c in COLOURS if c in known]
    figure.legend(
        [known[c] for c in order], order, loc="outside lower center", ncols=len(order), frameon=False, fontsize=9
    )
    figure.suptitle(f"Energy of one sample on {cost.hardware!r}", fontsize=11)
    return write_figure(figure, target)


def _groups(cost: Energies) -> dict[str, tuple[str, ...]]:
    """Label -> blocks of each bar: those that take energy, from the first to the last."""
    names = [b for b in cost.blocks if cost.total("training", block=b).energy > 0]
    if len(names) <= MOST_BLOCKS:
        return {n: (n,) for n in names}
    rest = tuple(names[MOST_BLOCKS - 1 :])
    return {**{n: (n,) for n in names[: MOST_BLOCKS - 1]}, f"{len(rest)} others": rest}


def _by_block(axis: Any, cost: Energies, bars: dict[str, tuple[str, ...]], step: str) -> None:
    """A stacked bar a block, the first on top."""
    values = {
        c: [sum(cost.total(step, block=b, component=c).energy for b in blocks) for blocks in bars.values()]
        for c in COLOURS
    }
    longest = max((sum(v[i] for v in values.values()) for i in range(len(bars))), default=0.0)
    scale, unit = _unit(longest)
    left = [0.0] * len(bars)
    for component, energies in values.items():
        widths = [e / scale for e in energies]
        if any(widths):
            axis.barh(range(len(bars)), widths, left=left, color=COLOURS[component], label=component, height=0.72)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for i, width in enumerate(left):
        axis.text(width, i, f" {si(width * scale, 'J')}", va="center", fontsize=7)
    axis.set_xlim(0, 1.16 * longest / scale or 1.0)
    axis.set_yticks(range(len(bars)), list(bars), fontsize=8)
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xlabel(f"{unit} ({step})")
    _plain(axis, "x")


def _beside(axis: Any, cost: Energies) -> None:
    """The chip and the accelerators on a logarithmic axis, a pair of bars each."""
    drawn: list[float] = []
    names = ["this chip", *dict.fromkeys(c.accelerator for c in cost.comparisons)]
    for offset, step, colour in ((-0.2, "inference", "#8da0cb"), (0.2, "training", "#33508f")):
        theirs = {c.accelerator: c.energy for c in cost.comparisons if c.step == step}
        values = {"this chip": cost.total(step).energy, **theirs}
        shown = [(i + offset, values[n]) for i, n in enumerate(names) if values.get(n, 0.0) > 0]
        axis.barh([y for y, _ in shown], [v for _, v in shown], height=0.38, color=colour, label=step)
        drawn += [v for _, v in shown]
        for y, value in shown:
            axis.text(value, y, f" {si(value, 'J')}", va="center", fontsize=7)
    axis.set_xscale("log")
    if drawn:
        axis.set_xlim(10.0 ** math.floor(math.log10(min(drawn)) - 0.5), 4 * max(drawn))
    axis.xaxis.set_minor_formatter("")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("J, logarithmic")
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    _plain(axis, "x")


def _plain(axis: Any, grid: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)


def _unit(value: float) -> tuple[float, str]:
    for scale, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ"), (1e-9, "nJ")):
        if value >= scale:
            return scale, unit
    return 1e-12, "pJ"
