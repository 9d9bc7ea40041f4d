"""Small multiples: a row of panels a metric, a column a value of the second sweep; medians and spread over chips.

The first sweep runs along the axis; a third one is told apart by colour; further ones have a picture each. One at a
time, each sweep has a column of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..figures import INSTALL, new_figure, write_figure
from .metrics import METRICS, Metric
from .point import Settings, grid
from .sweep import Axis, Value, shown
from .tables import Spread

WIDEST = 8
"""Columns in a picture; a second sweep of more values is told apart by colour instead."""

DECADE = 10.0
GEOMETRIC = 30.0
"""An axis whose values span at least this factor may be drawn logarithmically."""

Summary = Mapping[Settings, Mapping[str, Spread]]


@dataclass(frozen=True)
class Panel:
    """One column of panels: what runs along the axis, and a line for each label."""

    title: str
    axis: Axis
    lines: Mapping[str, Sequence[tuple[int, Settings]]]


def check_plots() -> None:
    """Whether plots can be drawn.

    Raises:
        OptionError: matplotlib is not installed.
    """
    new_figure("drawing plots", INSTALL.replace(".", ", or give --no-plots."))


def draw(
    folder: Path, axes: Sequence[Axis], alone: bool, summary: Summary, title: str, digital: Mapping[str, float | None]
) -> list[Path]:
    """Writes ``study.png`` and ``study.svg``, or ``study_1.png`` ... where there are several pictures.

    Args:
        summary: median and spread by settings and metric.
        digital: metrics of the digital model, drawn as dashed lines.
    """
    check_plots()
    pictures = [*_pictures([a for a in axes if alone or len(a.values) > 1] or list(axes), axes, alone)]
    written = []
    for number, (subtitle, panels) in enumerate(pictures, 1):
        figure = _figure(panels, summary, f"{title}\n{subtitle}" if subtitle else title, digital)
        if figure is not None:
            name = "study" if len(pictures) == 1 else f"study_{number}"
            written += [write_figure(figure, folder / f"{name}.{kind}") for kind in ("png", "svg")]
    return written


# --- what goes where --------------------------------------------------------------------------------------


def _pictures(varied: Sequence[Axis], axes: Sequence[Axis], alone: bool) -> Iterator[tuple[str, list[Panel]]]:
    if alone:
        yield "", [Panel("", a, {"": [(i, ((a.name, v),)) for i, v in enumerate(a.values)]}) for a in axes]
        return
    first, rest = varied[0], list(varied[1:])
    columns = rest.pop(0) if rest and len(rest[0].values) <= WIDEST else None
    colours = rest.pop(0) if rest else None
    constant = {a.name: a.values[0] for a in axes}
    for fixed in grid(rest):
        panels = []
        for column in _each(columns):
            others = [(colour, {**constant, **dict((*column, *colour, *fixed))}) for colour in _each(colours)]
            panels.append(Panel(_told(column), first, {_told(c): _line(axes, first, o) for c, o in others}))
        yield ", ".join(_told((pair,)) for pair in fixed), panels


def _each(axis: Axis | None) -> list[Settings]:
    return [()] if axis is None else [((axis.name, value),) for value in axis.values]


def _line(axes: Sequence[Axis], along: Axis, others: Mapping[str, Value]) -> list[tuple[int, Settings]]:
    """The settings along an axis, in the order of the axes, which is how they are recorded."""
    return [
        (i, tuple((a.name, value if a.name == along.name else others[a.name]) for a in axes))
        for i, value in enumerate(along.values)
    ]


def _told(settings: Settings) -> str:
    return ", ".join(f"{name} = {shown(value)}" for name, value in settings)


# --- drawing ----------------------------------------------------------------------------------------------


def _figure(panels: Sequence[Panel], summary: Summary, title: str, digital: Mapping[str, float | None]) -> Any:
    metrics = [m for m in METRICS if METRICS[m].plotted and any(m in spreads for spreads in summary.values())]
    if not metrics:
        return None
    size = (max(4.6, 2.5 * len(panels) + 1.7), 1.75 * len(metrics) + 1.0)
    figure = new_figure("plots", figsize=size, dpi=130, layout="constrained")
    cells = figure.subplots(len(metrics), len(panels), squeeze=False, sharex="col", sharey="row")
    for row, metric in zip(cells, metrics, strict=True):
        for cell, panel in zip(row, panels, strict=True):
            _panel(cell, panel, metric, summary)
            if (line := digital.get(metric)) is not None:
                cell.axhline(line, color="#444444", linewidth=0.9, linestyle="--", label="digital model")
        _value_axis(row, METRICS[metric])
    for cell, panel in zip(cells[0], panels, strict=True):
        cell.set_title(panel.title, fontsize=9)
    for cell, panel in zip(cells[-1], panels, strict=True):
        unit = panel.axis.quantity.unit
        cell.set_xlabel(panel.axis.name + (f" ({unit})" if unit not in ("", "1") else ""), fontsize=9)
        _along(cell, panel.axis)
    _legend(figure, cells[0][0])
    figure.suptitle(f"{title}\nmedian over the chips, band from the 10th to the 90th percentile", fontsize=9)
    return figure


def _panel(cell: Any, panel: Panel, metric: str, summary: Summary) -> None:
    import matplotlib

    colours = matplotlib.colormaps["viridis"]
    positions = _positions(panel.axis)
    for number, (label, line) in enumerate(panel.lines.items()):
        colour = "#b3621b" if len(panel.lines) == 1 else colours(0.9 * number / (len(panel.lines) - 1))
        known = [(positions[i], summary[s][metric]) for i, s in line if metric in summary.get(s, {})]
        known = [(x, spread) for x, spread in known if math.isfinite(spread.median)]
        known.sort(key=lambda pair: pair[0])
        x = [place for place, _ in known]
        cell.plot(x, [s.median for _, s in known], "o-", color=colour, markersize=3.2, linewidth=1.2, label=label)
        cell.fill_between(
            x, [s.low for _, s in known], [s.high for _, s in known], color=colour, alpha=0.2, linewidth=0
        )
    cell.spines[["top", "right"]].set_visible(False)
    cell.grid(alpha=0.25, linewidth=0.6)
    cell.tick_params(which="both", labelsize=8)


def _value_axis(row: Sequence[Any], metric: Metric) -> None:
    """A range wide enough that rounding does not fill it: a decade, or one unit of a count."""
    row[0].set_ylabel(metric.label + (f" ({metric.unit})" if metric.unit else ""), fontsize=9)
    low, high = min(cell.dataLim.ymin for cell in row), max(cell.dataLim.ymax for cell in row)
    if not low <= high:  # nothing is drawn
        return
    if metric.logarithmic and low > 0:
        row[0].set_yscale("log")
        if high < DECADE * low:
            centre = math.sqrt(low * high)
            row[0].set_ylim(centre / math.sqrt(DECADE), centre * math.sqrt(DECADE))
    elif metric.whole:
        row[0].set_ylim(low - 0.5, high + 0.5)
        row[0].yaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _legend(figure: Any, cell: Any) -> None:
    handles, labels = cell.get_legend_handles_labels()
    named = [(h, label) for h, label in zip(handles, labels, strict=True) if label]
    if named:
        columns = min(len(named), max(1, int(figure.get_figwidth() // 1.6)))
        figure.legend(*zip(*named, strict=True), loc="outside lower center", fontsize=8, frameon=False, ncols=columns)


# --- what runs along the axis -----------------------------------------------------------------------------


def _positions(axis: Axis) -> list[float]:
    """The values themselves; for choices, and numbers beside none, one place each."""
    return (
        [float(v) for v in axis.values if isinstance(v, (int, float))]
        if _is_numeric(axis)
        else [*map(float, range(len(axis.values)))]
    )


def _is_numeric(axis: Axis) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in axis.values)


def _is_geometric(values: Sequence[float]) -> bool:
    """Whether values span a lot, by steps that are more alike in their ratios than in their differences."""
    if len(values) < 3 or min(values) <= 0 or max(values) < GEOMETRIC * min(values):
        return False
    steps = [*itertools.pairwise(sorted(values))]
    ratios, differences = [math.log(b / a) for a, b in steps], [b - a for a, b in steps]
    return max(ratios) / min(ratios) < max(differences) / min(differences)


def _along(cell: Any, axis: Axis) -> None:
    values = _positions(axis)
    if not _is_numeric(axis):
        cell.set_xticks(
            values, [shown(v) for v in axis.values], rotation=30 if max(map(len, map(shown, axis.values))) > 6 else 0
        )
    elif _is_geometric(values):
        cell.set_xscale("log")
    elif _is_geometric(positive := [v for v in values if v > 0]) and min(values) == 0:
        cell.set_xscale("symlog", linthresh=min(positive))
    elif len(values) <= 8 and all(isinstance(v, int) for v in axis.values):
        cell.set_xticks(values)
