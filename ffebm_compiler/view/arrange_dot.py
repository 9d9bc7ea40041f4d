"""Places a partition graph by graphviz, where its program ``dot`` is installed; styles stay ours.

Nodes go in as ``n0, n1, ...`` with their sizes, so no name of the user's is ever written as DOT.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import networkx as nx

from .scene import DETAIL_SIZE, Box, Frame, Label, Point, Scene, Wire, blocks_of, frame_title, labels, text_width

logger = logging.getLogger(__name__)

INCH = 72.0
TIMEOUT = 60.0


def arrange_by_dot(graph: nx.DiGraph) -> Scene | None:
    """The scene of a partition graph; None where graphviz is missing or fails."""
    program = shutil.which("dot")
    if program is None:
        return None
    named = labels(graph)
    try:
        done = subprocess.run(
            [program, "-Tjson0"],
            input=_source(graph, named),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=True,
        )
        return _scene(graph, named, json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError) as failure:
        logger.info("graphviz could not place the graph (%s); placing it without", failure)
        return None


def _source(graph: nx.DiGraph, named: Mapping[str, Label]) -> str:
    number = {name: i for i, name in enumerate(named)}
    lines = [
        "digraph {",
        "rankdir=TB; nodesep=0.35; ranksep=0.45;",
        'node [shape=box, fixedsize=true, label=""];',
        "edge [arrowhead=none];",
    ]
    for name, label in named.items():
        width, height = label.size
        lines.append(f"n{number[name]} [width={width / INCH:.3f}, height={height / INCH:.3f}];")
    for i, (block, names) in enumerate(blocks_of(graph).items()):
        title = text_width(frame_title(block, [graph.nodes[n] for n in names]), DETAIL_SIZE)
        room = f'<<table border="0" cellborder="0" fixedsize="true" width="{title:.0f}" height="14"><tr><td></td></tr></table>>'
        lines.append(f"subgraph cluster_{i} {{ margin=14; label={room}; {' '.join(f'n{number[n]};' for n in names)} }}")
    lines += [f"n{number[str(u)]} -> n{number[str(v)]};" for u, v in graph.edges]
    return "\n".join([*lines, "}"])


def _scene(graph: nx.DiGraph, named: Mapping[str, Label], laid: Mapping[str, Any]) -> Scene:
    _, _, width, height = _numbers(laid["bb"])
    objects = {o["name"]: o for o in laid["objects"]}
    at = {o["_gvid"]: o["name"] for o in laid["objects"]}
    names = list(named)

    def point(x: float, y: float) -> Point:
        return x, height - y

    boxes = [Box(named[name], *point(*_numbers(objects[f"n{i}"]["pos"]))) for i, name in enumerate(names)]
    frames = []
    for i, (block, members) in enumerate(blocks_of(graph).items()):
        x0, y0, x1, y1 = _numbers(objects[f"cluster_{i}"]["bb"])
        data = [graph.nodes[n] for n in members]
        analog = any(m.get("domain") == "analog" for m in data)
        frames.append(Frame(frame_title(block, data), analog, *point(x0, y1), x1 - x0, y1 - y0))
    wires = []
    for edge in laid.get("edges", ()):
        u, v = (names[int(at[edge[end]][1:])] for end in ("tail", "head"))
        points = tuple(point(*_numbers(p)) for p in edge["pos"].split())
        wires.append(Wire(points, bool(graph.edges[u, v].get("feedback"))))
    return Scene(str(graph.graph.get("model", "")), width, height, tuple(boxes), tuple(frames), tuple(wires))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(n) for n in text.split(","))
