"""A partition graph as a picture: ``.svg``, ``.png`` or ``.html``, by its file name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import networkx as nx

from ..errors import OptionError, Problem
from .arrange import arrange
from .arrange_dot import arrange_by_dot
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
    """Draws ``graph`` to ``path`` and returns it; graphviz places it where it is installed, else our own layout.

    Raises:
        OptionError: a suffix that is no format, a folder that is missing, a file that can't be written, or a ``.png``
            without matplotlib. Whatever was at ``path`` is then as it was.
    """
    path = check_picture(path)
    if not nx.is_directed_acyclic_graph(graph):
        raise OptionError(Problem(f"drawing {path}", "the graph has a cycle", "Give a graph as to_networkx() makes it; feedback is an attribute of its edges."))
    scene = arrange_by_dot(graph) or arrange(graph)
    write_whole(path, FORMATS[path.suffix.lower()](scene), "drawing")
    return path


def check_picture(path: str | os.PathLike[str]) -> Path:
    """The path, after making sure before any work that a picture can be of that name and in that folder.

    Raises:
        OptionError: it can't.
    """
    path = Path(path)
    where = f"drawing {path}"
    if path.suffix.lower() not in FORMATS:
        raise OptionError(Problem(where, f"the suffix {path.suffix!r} is no picture format", f"End the name in {', '.join(FORMATS)}."))
    if path.is_dir():
        raise OptionError(Problem(where, "is a folder", "Give the name of a file."))
    if not path.parent.is_dir():
        raise OptionError(Problem(where, f"there is no folder {path.parent}", f"Make it first (mkdir -p {path.parent}), or choose another."))
    return path


def write_whole(path: Path, content: bytes, what: str) -> None:
    """Writes a file whole or not at all: into a temporary one beside it, which then takes its name.

    Raises:
        OptionError: the folder or the disk refuses.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as failure:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OptionError(Problem(f"{what} {path}", f"can't be written: {failure.strerror}", "Choose a file in a folder that you may write to.")) from failure


def _umask() -> int:
    """The process's mask for new files, which mkstemp ignores; reading it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
