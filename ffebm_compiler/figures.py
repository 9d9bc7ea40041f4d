"""Figures of matplotlib, the ``viz`` extra: drawn without a display, and written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import OptionError
from .files import check_target, write_whole

INSTALL = "Install it: pip install 'ffebm_compiler[viz]'."


def new_figure(what: str, remedy: str = INSTALL, **options: Any) -> Any:
    """An empty figure on a canvas of pixels.

    Args:
        what: what is drawn, for the error: ``"a plot of the cost"``.
        remedy: what to do without matplotlib.
        options: those of ``matplotlib.figure.Figure``.

    Raises:
        OptionError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as failure:
        raise OptionError.at(what, "needs matplotlib", remedy) from failure
    figure = matplotlib.figure.Figure(**options)
    FigureCanvasAgg(figure)
    return figure


def check_figure_file(path: Path, formats: Iterable[str]) -> Path:
    """The path, after making sure before any work that a figure can go there.

    Args:
        formats: the endings that there are: ``".png"``.

    Raises:
        OptionError: another ending, or a place that can't be written to.
    """
    if path.suffix.lower() not in (known := list(formats)):
        raise OptionError.at(f"plot {path}", f"has the ending {path.suffix!r}", f"End it in {', '.join(known)}.")
    return check_target(path, "plot")


def encoded(figure: Any, kind: str, **options: Any) -> bytes:
    """A figure in a format such as ``"png"``."""
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, **options)
    return stream.getvalue()


def write_figure(figure: Any, path: Path, **options: Any) -> Path:
    """Writes a figure in the format of the file's ending.

    Raises:
        OptionError: it can't be written.
    """
    return write_whole(path, encoded(figure, path.suffix[1:].lower(), **options), "plot")
