"""A scene as one HTML page, offline: the SVG with pan, zoom, search and tooltips."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from .scene import Scene
from .svg import svg


def page(scene: Scene) -> str:
    """The drawing as one HTML file."""
    template = (files(__package__) / "page.html").read_text(encoding="utf-8")
    return template.replace("{{title}}", escape(scene.title)).replace("{{drawing}}", svg(scene))
