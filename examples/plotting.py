"""The pictures of the examples, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import replacing
from .training import Progress

FLOOR = 1e-17
"""What an exact zero is drawn as on a logarithmic axis."""

COLOURS = {"digital": "#444444", "BP": "#1f77b4", "BP-EP": "#d95f02"}


def figure(columns: int = 1, width: float = 5.0, height: float = 3.6) -> tuple[Any, Sequence[Any]]:
    """A figure with a row of axes that share the examples' look."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width * columns, height), layout="constrained", dpi=130)
    axes = picture.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return picture, list(axes)


def save(picture: Any, path: Path) -> Path:
    with replacing(path) as file:
        picture.savefig(file, format="png")
    return path


def training_curves(stages: Mapping[str, Progress], converted: float, path: Path, title: str) -> Path:
    """Loss and validation accuracy: digital training, then both ways of fine-tuning from where it ended."""
    picture, (left, right) = figure(2)
    start = stages["digital"].epoch
    for name, progress in sorted(stages.items(), key=lambda item: list(COLOURS).index(item[0])):
        origin = 0 if name == "digital" else start
        colour, line = COLOURS[name], "--" if name == "BP-EP" else "-"  # it runs on top of BP where they agree
        per_epoch = max(1, len(progress.losses) // max(1, progress.epoch))
        epochs = [origin + (i + 1) / per_epoch for i in range(len(progress.losses))]
        left.plot(epochs, progress.losses, color=colour, alpha=0.2, linewidth=0.7)
        left.plot(epochs, smooth(progress.losses), line, color=colour)
        first = [] if name == "digital" else [converted if name == "BP-EP" else stages["digital"].accuracy[-1]]
        right.plot(
            [origin + i + (not first) for i in range(len(progress.accuracy) + len(first))],
            first + progress.accuracy,
            f"o{line}",
            color=colour,
            markersize=3,
            label=_legend(name),
        )
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch", ylabel="validation accuracy (%)")
    for axis in (left, right):
        axis.axvline(start, color="black", linewidth=0.7, linestyle=":")
    left.annotate(
        "converted",
        (start, left.get_ylim()[1]),
        xytext=(-3, -2),
        textcoords="offset points",
        rotation=90,
        fontsize=7,
        ha="right",
        va="top",
    )
    right.legend(frameon=False, fontsize=8, loc="lower center")
    picture.suptitle(title, fontsize=10)
    return save(picture, path)


def _legend(name: str) -> str:
    return {"digital": "digital training (BP)", "BP": "fine-tuned by BP", "BP-EP": "converted, fine-tuned by BP-EP"}[
        name
    ]


def smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result


def gradient_errors(
    panels: Mapping[str, Mapping[str, Mapping[str, float]]], required: Mapping[str, float], path: Path, title: str
) -> Path:
    """``1 - cosine`` of each parameter's gradient, a line for each estimator; parameters from the input to the output.

    Args:
        panels: by panel (a floating-point type), estimator and parameter.
        required: the cosine that each panel marks.
    """
    from matplotlib.figure import Figure

    names = list(next(iter(next(iter(panels.values())).values())))
    picture = Figure(figsize=(max(6.0, 0.17 * len(names) + 3), 2.9 * len(panels) + 0.9), layout="constrained", dpi=130)
    axes = picture.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (kind, lines) in zip(axes, panels.items(), strict=True):
        for (label, values), marker in zip(lines.items(), "osD^v<>pX*" * 3):
            axis.plot(
                range(len(names)),
                [max(values[n], FLOOR) for n in names],
                marker=marker,
                markersize=3.5,
                linewidth=0.8,
                label=label,
            )
        axis.set(ylabel=f"1 - cosine, {kind}", yscale="log", ylim=(FLOOR / 3, 5))
        axis.axhline(1 - required[kind], color="black", linewidth=0.8, linestyle=":")
        axis.annotate(
            f"required: cosine {required[kind]}",
            (len(names) - 1, 1 - required[kind]),
            xytext=(0, -9),
            textcoords="offset points",
            fontsize=7,
            ha="right",
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    axes[-1].set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes[0].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture.suptitle(title, fontsize=10)
    return save(picture, path)
