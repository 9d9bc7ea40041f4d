"""A partition graph as a picture: ``.svg``, ``.png`` or ``.html``, by its file name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import networkx as nx

from ..errors import OptionError
from ..files import check_target, write_whole
from .arrange import arrange
from .page import page
from .png import png
from .scene import Scene
from .svg import svg

FORMATS: Mapping[str, Callable[[Scene], bytes]] = {
    ".svg": lambda scene: svg(scene).encode(),
    ".png": png,
    ".html": lambda scene: page(scene).encode(),
}


def draw_graph(graph: nx.DiGraph, path: str | os.PathLike[str]) -> Path:
    """Draws ``graph`` to ``path`` and returns it.

    Raises:
        OptionError: a suffix that is no format, a folder that is missing, a file that can't be written, or a ``.png``
            without matplotlib. Whatever was at ``path`` is then as it was.
    """
    path = check_picture(path)
    if not nx.is_directed_acyclic_graph(graph):
        raise OptionError.at(
            f"drawing {path}",
            "the graph has a cycle",
            "Give a graph as to_networkx() makes it; feedback is an attribute of its edges.",
        )
    return write_whole(path, FORMATS[path.suffix.lower()](arrange(graph)), "drawing")


def check_picture(path: str | os.PathLike[str]) -> Path:
    """The path, after making sure before any work that a picture can be of that name and in that folder.

    Raises:
        OptionError: it can't.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise OptionError.at(
            f"drawing {path}",
            f"the suffix {path.suffix!r} is no picture format",
            f"End the name in {', '.join(FORMATS)}.",
        )
    return check_target(path, "drawing")
