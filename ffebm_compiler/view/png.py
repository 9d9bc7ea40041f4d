"""A scene as PNG, by matplotlib (the ``viz`` extra)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from ..figures import INSTALL, encoded, new_figure
from .scene import DETAIL_SIZE, TITLE_SIZE, Box, Frame, Point, Scene, Wire
from .svg import MARGIN, TOP, arrow_head, legend_boxes, legend_wires
from .theme import LIGHT, ROUNDING, Paint

SCALE = 2.0
LARGEST = 30_000
"""Pixels along a side that matplotlib still draws."""


def png(scene: Scene) -> bytes:
    """The drawing as a PNG file.

    Raises:
        OptionError: matplotlib is not installed.
    """
    width = max(scene.width, max(b.x + b.label.size[0] / 2 for b in legend_boxes())) + 2 * MARGIN
    height = scene.height + TOP + 2 * MARGIN
    scale = min(SCALE, LARGEST / max(width, height))
    remedy = INSTALL.replace(".", ", or draw .svg or .html.")
    size = {"figsize": (width / 72, height / 72), "dpi": 72 * scale}
    figure = new_figure("a drawing as .png", remedy, facecolor=LIGHT.page, **size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    axes.text(MARGIN, MARGIN + 12, _plain(scene.title), fontsize=16, fontweight="bold", color=LIGHT.ink)
    _legend(axes)
    _scene(axes, scene, ((width - scene.width) / 2, TOP + MARGIN))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # shown as a box; the other formats have it
        return encoded(figure, "png")


def _legend(axes: Any) -> None:
    corner = (MARGIN, MARGIN)
    for box in legend_boxes():
        _box(axes, box, corner)
    for wire, text, (x, y) in legend_wires():
        _wire(axes, wire, corner)
        axes.text(x + MARGIN, y + MARGIN, text, fontsize=DETAIL_SIZE, color=LIGHT.ink)


def _scene(axes: Any, scene: Scene, corner: Point) -> None:
    for frame in scene.frames:
        _frame(axes, frame, corner)
    for wire in scene.wires:
        _wire(axes, wire, corner)
    for frame in scene.frames:
        _frame_title(axes, frame, corner)
    for box in scene.boxes:
        _box(axes, box, corner)


def _rectangle(
    axes: Any, x: float, y: float, width: float, height: float, rounding: float, paint: Paint, layer: float = 1.0
) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = f"round,pad=0,rounding_size={rounding}" if rounding else "square,pad=0"
    line = (0, (5, 3)) if paint.dashed else "solid"
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle=style,
            facecolor=paint.fill,
            edgecolor=paint.line,
            linewidth=paint.weight,
            linestyle=line,
            zorder=layer,
        )
    )


def _frame(axes: Any, frame: Frame, corner: Point) -> None:
    paint = LIGHT.frames["analog" if frame.analog else "digital"]
    x, y = frame.x + corner[0], frame.y + corner[1]
    _rectangle(axes, x, y, frame.width, frame.height, 14.0 if frame.analog else 0.0, paint)


def _frame_title(axes: Any, frame: Frame, corner: Point) -> None:
    from matplotlib.patheffects import withStroke

    paint = LIGHT.frames["analog" if frame.analog else "digital"]
    rim = [withStroke(linewidth=5, foreground=paint.fill)]
    x, y = frame.x + corner[0] + 12, frame.y + corner[1] + 17
    axes.text(
        x, y, _plain(frame.title), fontsize=DETAIL_SIZE, fontweight="bold", color=paint.ink, path_effects=rim, zorder=2
    )


def _box(axes: Any, box: Box, corner: Point) -> None:
    label, paint = box.label, LIGHT.boxes[box.label.style]
    (width, height), x, y = label.size, box.x + corner[0], box.y + corner[1]
    _rectangle(axes, x - width / 2, y - height / 2, width, height, ROUNDING[label.style], paint, 3.0)
    axes.text(x, y - 3, _plain(label.title), fontsize=TITLE_SIZE, color=paint.ink, ha="center", zorder=3)
    axes.text(x, y + 13, _plain(label.detail), fontsize=DETAIL_SIZE, color=paint.ink, ha="center", zorder=3, alpha=0.8)


def _wire(axes: Any, wire: Wire, corner: Point) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    colour = LIGHT.wires["feedback" if wire.feedback else "forward"]
    points = tuple((x + corner[0], y + corner[1]) for x, y in wire.points)
    codes = [Path.MOVETO, *[Path.CURVE4] * (len(points) - 1)]
    axes.add_patch(
        PathPatch(
            Path(points, codes), fill=False, edgecolor=colour, linewidth=2.0 if wire.feedback else 1.4, zorder=1.5
        )
    )
    heads: Iterable[tuple[Point, ...]] = (points, points[::-1]) if wire.feedback else (points,)
    for way in heads:
        axes.add_patch(Polygon(arrow_head(way), closed=True, facecolor=colour, edgecolor="none", zorder=1.5))


def _plain(text: str) -> str:
    """A dollar sign would start mathematics."""
    return text.replace("$", r"\$")
