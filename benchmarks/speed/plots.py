"""A picture for each suite: ratios as points with their quartiles on a logarithmic axis, memory against sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed import report
from examples import plotting

Document = Mapping[str, Any]
Row = Mapping[str, Any]

COLOURS = ("#d95f02", "#1b9e77", "#7570b3", "#444444", "#1f77b4", "#a6761d")
MARKS = "osD^vP"


def draw(document: Document, path: Path) -> Path | None:
    """The suite's picture; none for one that has none."""
    picture = PICTURES.get(document["suite"])
    return None if picture is None or not document["rows"] else plotting.save(picture(document), path)


def _label(row: Row) -> str:
    return f"{row['network']}, blocks of {row['blocks']}"


def _full_label(row: Row) -> str:
    return f"{_label(row)}, {row['feedback']}"


def _series(row: Row) -> str:
    feedback = "unit feedback" if row["feedback"] == "unit" else f"loop gain {row['feedback']}"
    return f"{feedback}, {row['way']}" if "way" in row else feedback


def _figure(lines: int, columns: int = 1) -> tuple[Any, Sequence[Any]]:
    return plotting.figure(columns, width=6.8 if columns == 1 else 5.6, height=1.7 + 0.32 * lines)


def _finish(axis: Any, labels: Sequence[str], text: str) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xscale("log")
    axis.set_xlabel(text)
    axis.grid(axis="y", visible=False)


def _plain_numbers(side: Any) -> None:
    """1, 2, 5, 10 along a logarithmic x or y axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    side.set_major_locator(LogLocator(subs=(1, 2, 5)))
    side.set_major_formatter(lambda x, _: f"{x:g}")
    side.set_minor_formatter(NullFormatter())


def _points(
    axis: Any, rows: Sequence[Row], places: Sequence[float], series: int, label: str, value: str = "ratio"
) -> None:
    """One mark a row, with a whisker from quartile to quartile where there are any."""
    x = [r[value] for r in rows]
    spread = None
    if value == "ratio" and all("lower" in r for r in rows):
        spread = [[r["ratio"] - r["lower"] for r in rows], [r["upper"] - r["ratio"] for r in rows]]
    axis.errorbar(
        x,
        places,
        xerr=spread,
        fmt=MARKS[series],
        color=COLOURS[series],
        markersize=5.5,
        capsize=2.5,
        linewidth=1.2,
        label=label,
        alpha=0.9,
    )


def ratios(text: str, bound: float | None = None) -> Callable[[Document], Any]:
    """A line a network, a colour for each kind of feedback, and for each way where there are several."""

    def make(document: Document) -> Any:
        rows = document["rows"]
        labels = list(dict.fromkeys(_label(r) for r in rows))
        picture, (axis,) = _figure(len(labels))
        for i, series in enumerate(sorted({_series(r) for r in rows})):
            chosen = [r for r in rows if _series(r) == series]
            _points(axis, chosen, [labels.index(_label(r)) for r in chosen], i, series)
        axis.axvline(1, color="black", linewidth=0.8)
        if bound is not None:
            axis.axvline(bound, color="black", linewidth=0.8, linestyle=":", label=f"goal: {bound:g}")
        _finish(axis, labels, text)
        _plain_numbers(axis.xaxis)
        axis.legend(frameon=False, fontsize=8, loc="best")
        picture.suptitle(report.conditions(document), fontsize=7, color="#666666")
        return picture

    return make


def ways(document: Document) -> Any:
    """Time and error of each way to train, side by side."""
    rows = document["rows"]
    labels = list(dict.fromkeys(_full_label(r) for r in rows))
    picture, axes = _figure(int(1.4 * len(labels)), 2)
    for k, way in enumerate(dict.fromkeys(r["way"] for r in rows)):
        chosen = [r for r in rows if r["way"] == way]
        places = [labels.index(_full_label(r)) + 0.13 * (k - 2.5) for r in chosen]
        _points(axes[0], chosen, places, k, way)
        _points(axes[1], chosen, places, k, way, "error")
    _finish(axes[0], labels, "a training step, in backprop steps")
    _finish(axes[1], ["" for _ in labels], "relative error of the gradient")
    _plain_numbers(axes[0].xaxis)
    axes[0].axvline(1, color="black", linewidth=0.8)
    axes[1].axvline(1, color="black", linewidth=0.8)
    for axis in axes:
        for y in range(len(labels) - 1):
            axis.axhline(y + 0.5, color="#dddddd", linewidth=0.6)
    handles, names = axes[0].get_legend_handles_labels()
    picture.legend(handles, names, frameon=False, fontsize=8, ncols=len(names), loc="outside lower center")
    picture.suptitle(report.conditions(document), fontsize=7, color="#666666")
    return picture


def memory(document: Document) -> Any:
    """Peak memory against the number of sweeps."""
    rows = document["rows"]
    picture, (axis,) = plotting.figure(1, width=5.6)
    for k, way in enumerate(dict.fromkeys(r["way"] for r in rows)):
        chosen = [r for r in rows if r["way"] == way]
        if chosen[0]["sweeps"] == "":
            axis.axhline(chosen[0]["ratio"], color="black", linewidth=0.8, label=way)
            continue
        axis.plot(
            [r["sweeps"] for r in chosen],
            [r["ratio"] for r in chosen],
            f"{MARKS[k]}-",
            color=COLOURS[k],
            label=way if way != "recorded" else "recorded: automatic differentiation",
        )
    axis.axhline(1.5, color="black", linewidth=0.8, linestyle=":", label="goal: 1.5")
    axis.set(xscale="log", yscale="log", xlabel="sweeps of each phase", ylabel="peak memory of a step, in backprop's")
    _plain_numbers(axis.yaxis)
    axis.set_xticks(sorted({r["sweeps"] for r in rows if r["sweeps"] != ""}))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.xaxis.set_minor_formatter(lambda x, _: "")
    axis.legend(frameon=False, fontsize=8)
    picture.suptitle(report.conditions(document), fontsize=7, color="#666666")
    return picture


def compiling(document: Document) -> Any:
    """The time of a conversion against the size of the graph, a line a shape."""
    rows = document["rows"]
    names = list(dict.fromkeys(r["network"] for r in rows))
    picture, (axis,) = plotting.figure(1, width=6.4)
    for k, name in enumerate(names):
        chosen = [r for r in rows if r["network"] == name]
        axis.plot(
            [r["nodes"] for r in chosen],
            [r["seconds"] for r in chosen],
            f"{MARKS[k % len(MARKS)]}-",
            color=COLOURS[k % len(COLOURS)],
            fillstyle="full" if k < len(COLOURS) else "none",
            markersize=5.5,
            label=name,
        )
    axis.set(xscale="log", yscale="log", xlabel="calls in the graph", ylabel="seconds to convert")
    _plain_numbers(axis.xaxis)
    _plain_numbers(axis.yaxis)
    axis.legend(frameon=False, fontsize=8)
    picture.suptitle(report.conditions(document), fontsize=7, color="#666666")
    return picture


PICTURES: dict[str, Callable[[Document], Any]] = {
    "step": ratios("a training step, in backprop steps", 3.0),
    "schedules": ways,
    "splitting": ratios("a training step, in steps of the same depth in blocks of 2"),
    "inference": ratios("an inference, in feedforward inferences", 3.0),
    "memory": memory,
    "compiling": compiling,
}
