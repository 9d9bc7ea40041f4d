"""Everything about a converted model, in one folder that appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx

from ..ffebm import FFEBM
from ..files import write_folder_whole
from ..view import draw_graph


def write_folder(folder: Path, replace: bool, make: Callable[[], FFEBM], factory: str) -> Path:
    """Writes the folder of the model that ``make`` converts.

    Args:
        replace: whether a folder that exists may be replaced; it is, once the new one is complete.
        factory: ``module:factory`` of the original model, for the training script.

    Raises:
        OptionError: the folder exists, or can't be written. It is checked before the work.
    """
    return write_folder_whole(
        folder, lambda partial: _write(partial, make(), factory), "a converted model", "report.json", replace
    )


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
    packages = "\\usepackage{amsmath}\n\\usepackage[paperwidth=120cm,margin=2cm]{geometry}"
    return f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{blocks}\n\\end{{document}}\n"
