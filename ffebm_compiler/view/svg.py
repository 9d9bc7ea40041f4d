"""A scene as SVG that needs nothing beside it: colours for light and dark, tooltips, a legend."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from .scene import DETAIL_SIZE, LEGEND, TITLE_SIZE, Box, Frame, Label, Point, Scene, Wire, text_width
from .theme import DARK, LIGHT, ROUNDING, Paint, Theme

MARGIN, TOP = 24.0, 116.0
"""Around the drawing, and for the title and the legend."""
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


def svg(scene: Scene) -> str:
    """The drawing as one SVG document."""
    legend = list(legend_boxes())
    width = max(scene.width, max(b.x + b.label.size[0] / 2 for b in legend)) + 2 * MARGIN
    height = scene.height + TOP + 2 * MARGIN
    indent, dark = (width - scene.width) / 2, "".join(_rules(DARK))
    body = [
        *map(_frame, scene.frames),
        *map(_wire, scene.wires),
        *map(_frame_title, scene.frames),
        *map(_box, scene.boxes),
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="{FONT}">',
        f"<style>@media (prefers-color-scheme: dark){{{dark}}}</style>",
        f'<rect class="page" width="100%" height="100%" fill="{LIGHT.page}"/>',
        f'<g transform="translate({MARGIN:g} {MARGIN:g})">',
        _text(scene.title, f'class="ink" y="12" font-size="16" font-weight="bold" fill="{LIGHT.ink}"'),
        *map(_box, legend), *_legend_wires(), "</g>",
        f'<g class="graph" transform="translate({indent:.1f} {TOP + MARGIN:g})">', *body, "</g>", "</svg>", "",
    ])  # fmt: skip


def legend_boxes() -> Iterator[Box]:
    """An example box of each style, in a row below the title."""
    at = 0.0
    for style, title, detail in LEGEND:
        label = Label(style, title, detail, detail)
        width = label.size[0]
        yield Box(label, at + width / 2, 48.0)
        at += width + 16


def legend_wires() -> Iterator[tuple[Wire, str, Point]]:
    """An example of each wire, what it means, and where that stands."""
    at = 0.0
    for feedback, text in ((False, "forward only"), (True, "forward and back: the states act on each other")):
        yield Wire(((at, 84.0), (at + 15, 84.0), (at + 30, 84.0), (at + 44, 84.0)), feedback), text, (at + 54, 88.0)
        at += 54 + text_width(text, DETAIL_SIZE) + 24


def _legend_wires() -> Iterator[str]:
    for wire, text, (x, y) in legend_wires():
        yield _wire(wire)
        yield _text(text, f'class="ink" x="{x:g}" y="{y:g}" font-size="{DETAIL_SIZE:g}" fill="{LIGHT.ink}"')


def _frame(frame: Frame) -> str:
    kind = "analog" if frame.analog else "digital"
    at = f'x="{frame.x:.1f}" y="{frame.y:.1f}" width="{frame.width:.1f}" height="{frame.height:.1f}"'
    return f'<g class="frame {kind}"><rect {at} rx="{14 if frame.analog else 0}" {_paint(LIGHT.frames[kind])}/></g>'


def _frame_title(frame: Frame) -> str:
    """Above the wires, which may pass behind it, with a rim of the frame's colour."""
    kind = "analog" if frame.analog else "digital"
    paint = LIGHT.frames[kind]
    rim = f'stroke="{paint.fill}" stroke-width="5" stroke-linejoin="round" paint-order="stroke"'
    at = f'x="{frame.x + 12:.1f}" y="{frame.y + 17:.1f}" font-size="{DETAIL_SIZE:g}" font-weight="bold"'
    title = _text(frame.title, f'{at} fill="{paint.ink}" {rim}')
    return f'<g class="frame {kind}">{title}</g>'


def _box(box: Box) -> str:
    label, paint = box.label, LIGHT.boxes[box.label.style]
    width, height = label.size
    x, y = box.x - width / 2, box.y - height / 2
    at = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{ROUNDING[label.style]:g}"'
    middle = f'x="{box.x:.1f}" text-anchor="middle" fill="{paint.ink}"'
    title = _text(label.title, f'y="{box.y - 3:.1f}" font-size="{TITLE_SIZE:g}" {middle}')
    detail = _text(label.detail, f'y="{box.y + 13:.1f}" font-size="{DETAIL_SIZE:g}" {middle} opacity="0.8"')
    return (
        f'<g class="box {label.style}"><title>{escape(label.tooltip)}</title>'
        f"<rect {at} {_paint(paint)}/>{title}{detail}</g>"
    )


def _text(text: str, attributes: str) -> str:
    return f"<text {attributes}>{escape(text)}</text>"


def _paint(paint: Paint) -> str:
    dash = ' stroke-dasharray="5 3"' if paint.dashed else ""
    return f'fill="{paint.fill}" stroke="{paint.line}" stroke-width="{paint.weight:g}"{dash}'


def _wire(wire: Wire) -> str:
    kind = "feedback" if wire.feedback else "forward"
    colour, start, *rest = LIGHT.wires[kind], *wire.points
    path = f"M{_at(start)}" + "".join(
        f"C{_at(a)} {_at(b)} {_at(c)}" for a, b, c in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    )
    heads = [arrow_head(wire.points)] + ([arrow_head(wire.points[::-1])] if wire.feedback else [])
    tips = "".join(f'<polygon points="{" ".join(map(_at, head))}" fill="{colour}" stroke="none"/>' for head in heads)
    line = f'fill="none" stroke="{colour}" stroke-width="{2 if wire.feedback else 1.4}"'
    return f'<g class="wire {kind}"><path d="{path}" {line}/>{tips}</g>'


def _at(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def arrow_head(points: tuple[Point, ...], length: float = 8.0, half: float = 3.6) -> tuple[Point, Point, Point]:
    """The triangle at the last of the points, along the way the curve comes."""
    x, y = points[-1]
    before = next((p for p in reversed(points) if abs(p[0] - x) + abs(p[1] - y) > 1e-6), (x, y - 1))
    dx, dy = x - before[0], y - before[1]
    norm = (dx * dx + dy * dy) ** 0.5
    dx, dy = dx / norm, dy / norm
    base = x - length * dx, y - length * dy
    return (x, y), (base[0] - half * dy, base[1] + half * dx), (base[0] + half * dy, base[1] - half * dx)


def _rules(theme: Theme) -> Iterator[str]:
    yield f".page{{fill:{theme.page}}}.ink{{fill:{theme.ink}}}"
    for group, paints in (("box", theme.boxes), ("frame", theme.frames)):
        for style, paint in paints.items():
            shape = f".{group}.{style}"
            yield f"{shape} rect{{fill:{paint.fill};stroke:{paint.line}}}{shape} text{{fill:{paint.ink}}}"
    yield "".join(f".frame.{style} text{{stroke:{paint.fill}}}" for style, paint in theme.frames.items())
    for kind, colour in theme.wires.items():
        yield f".{kind} path{{stroke:{colour}}}.{kind} polygon{{fill:{colour}}}"
