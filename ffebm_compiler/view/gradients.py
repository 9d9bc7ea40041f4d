"""A picture of how well gradients agree, parameter by parameter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..figures import check_figure_file, new_figure, write_figure

Row = tuple[str, float, float, bool]


def plot_gradients(rows: Sequence[Row], estimator: str, path: Path) -> Path:
    """Draws 1 - cosine and relative error of each (name, cosine, error, exact is zero) on a logarithmic axis.

    Raises:
        OptionError: matplotlib is missing, or has no such format, or the file can't be written.
    """
    figure = new_figure("plot", figsize=(8, 1.2 + 0.24 * len(rows)), layout="constrained")
    target = path if path.suffix else path.with_suffix(".png")
    check_figure_file(target, (f".{kind}" for kind in figure.canvas.get_supported_filetypes()))
    floor = 1e-17
    axis = figure.add_subplot()
    positions = range(len(rows))
    judged = [i for i in positions if not rows[i][3]]
    apart = [max(1 - rows[i][1], floor) for i in judged]
    axis.scatter(apart, judged, label="1 − cosine", color="#1f6feb", marker="o")
    axis.scatter([max(rows[i][2], floor) for i in judged], judged, label="relative error", color="#d1542a", marker="x")
    zero = [i for i in positions if rows[i][3]]
    if zero:
        axis.scatter(
            [max(rows[i][2], floor) for i in zero],
            zero,
            label="exact gradient is 0:\nestimate / largest",
            color="#888888",
            marker="^",
        )
    axis.set_xscale("log")
    axis.set_yticks(list(positions), [r[0] for r in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(alpha=0.3)
    axis.set_xlabel("distance from the exact gradient (smaller is better)")
    axis.set_title(f"{estimator} against automatic differentiation through the equilibrium", fontsize=10)
    axis.legend(fontsize=8, loc="best")
    return write_figure(figure, target, dpi=150)
