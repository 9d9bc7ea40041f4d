"""Everything about a converted model, in one folder that appears whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import networkx as nx

from ..backends import FFEBM
from ..errors import OptionError, Problem
from ..view import draw_graph


def write_folder(folder: Path, replace: bool, make: Callable[[], FFEBM], factory: str) -> Path:
    """Writes the folder of the model that ``make`` converts.

    Args:
        replace: whether a folder that exists may be replaced; it is, once the new one is complete.
        factory: ``module:factory`` of the original model, for the training script.

    Raises:
        OptionError: the folder exists, or can't be written. It is checked before the work.
    """
    _check(folder, replace)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as failure:
        raise _unwritable(folder, failure) from failure
    try:
        _write(partial, make(), factory)
        partial.chmod(0o755)
        if folder.exists():
            _swap(partial, folder)
        else:
            partial.rename(folder)
    except OSError as failure:
        raise _unwritable(folder, failure) from failure
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _check(folder: Path, replace: bool) -> None:
    if folder.is_dir() and replace and not _is_ours(folder):
        raise OptionError(
            Problem(
                f"folder {folder}",
                "holds something else than a converted model",
                "Choose another folder; --force replaces only what convert wrote.",
            )
        )
    if folder.exists() and not (replace and folder.is_dir()):
        remedy = "Choose another, or replace it with --force." if folder.is_dir() else "Choose another name."
        raise OptionError(Problem(f"folder {folder}", "exists" if folder.is_dir() else "is a file", remedy))
    if not folder.parent.is_dir():
        raise OptionError(
            Problem(
                f"folder {folder}", f"there is no folder {folder.parent}", f"Make it first: mkdir -p {folder.parent}"
            )
        )


def _is_ours(folder: Path) -> bool:
    return not any(folder.iterdir()) or (folder / "report.json").is_file()


def _unwritable(folder: Path, failure: OSError) -> OptionError:
    return OptionError(
        Problem(f"folder {folder}", f"can't be written: {failure.strerror}", "Choose a place that you may write to.")
    )


def _swap(partial: Path, folder: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        partial.rename(folder)
    except OSError:
        (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


# --- the files --------------------------------------------------------------------------------------------


def _write(folder: Path, model: FFEBM, factory: str) -> None:
    report, graph = model.report(), model.to_networkx()
    texts = {
        "report.txt": f"{report}\n",
        "report.json": json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n",
        "energies.txt": "\n\n".join(f"{b.name}: {', '.join(b.layers)}\n{b.energy}" for b in model.blocks) + "\n",
        "energies.tex": _latex(model),
        "graph.json": json.dumps(nx.node_link_data(graph, edges="edges"), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    nx.write_graphml(graph, folder / "graph.graphml", encoding="utf-8")
    draw_graph(graph, folder / "graph.html")
    model.write_training_loop(folder / "train.py", model=factory)


def _latex(model: FFEBM) -> str:
    """A document that compiles as it stands."""
    blocks = "\n".join(f"\\section*{{{b.name}}}\n\\[\n{b.energy.latex()}\n\\]" for b in model.blocks)
    return f"\\documentclass{{article}}\n\\usepackage{{amsmath}}\n\\usepackage[paperwidth=120cm,margin=2cm]{{geometry}}\n\\begin{{document}}\n{blocks}\n\\end{{document}}\n"
