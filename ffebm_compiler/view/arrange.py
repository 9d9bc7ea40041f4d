"""Places a partition graph without any other program: each block is drawn by itself, then the blocks.

A value that enters or leaves a block does so at a port on the block's edge, which the block's own layout places, so
wires between blocks never cross the boxes of either, and blocks never overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

from .layered import Edge, Node, Placed, layered
from .scene import DETAIL_SIZE, Box, Frame, Label, Point, Scene, Wire, blocks_of, frame_title, labels, text_width

PADDING, HEAD = 16.0, 14.0
"""Around a block's operations, and for its title."""


@dataclass(frozen=True)
class _Block:
    """A block with its inside placed."""

    title: str
    analog: bool
    inside: Placed
    width: float
    height: float
    indent: float
    head: float

    def port(self, side: str, value: str) -> float:
        """Where a value enters (``"in"``) or leaves (``"out"``), from the middle of the block."""
        return self.inside.centres[side, value][0] + self.indent - self.width / 2


def arrange(graph: nx.DiGraph) -> Scene:
    """The scene of a partition graph."""
    named = labels(graph)
    members = blocks_of(graph)
    home: dict[str, Node] = {name: name for name in named}
    home.update({name: ("block", block) for block, names in members.items() for name in names})
    blocks = {home[names[0]]: _inner(graph, named, names, block) for block, names in members.items()}
    whole = _outer(graph, named, home, blocks)
    corner = {b: (whole.centres[b][0] - x.width / 2, whole.centres[b][1] - x.height / 2) for b, x in blocks.items()}
    shift = {b: (corner[b][0] + x.indent, corner[b][1] + x.head) for b, x in blocks.items()}
    boxes = [_box(named[n], h, n, whole, blocks, shift) for n, h in home.items()]
    frames = [Frame(x.title, x.analog, *corner[b], x.width, x.height) for b, x in blocks.items()]
    wires = [_wire(graph, u, v, home, whole, blocks, shift) for u, v in graph.edges]
    return Scene(
        str(graph.graph.get("model", "")), whole.width, whole.height, tuple(boxes), tuple(frames), tuple(wires)
    )


def _inner(graph: nx.DiGraph, named: Mapping[str, Label], names: list[str], block: str) -> _Block:
    """The inside of a block: its operations, below a port for each value it reads, above one for each that it gives."""
    inside = set(names)
    edges = [Edge(u, v) for u in names for v in graph.successors(u) if v in inside]
    read = [Edge(("in", u), v) for v in names for u in graph.predecessors(v) if u not in inside]
    given = [Edge(u, ("out", u)) for u in names if any(v not in inside for v in graph.successors(u))]
    ports: list[Node] = [*dict.fromkeys(e.source for e in read), *(e.target for e in given)]
    sizes: dict[Node, Point] = {**{n: named[n].size for n in names}, **{p: (2.0, 0.0) for p in ports}}
    placed = layered(sizes, [*edges, *read, *given], [e.source for e in read], [e.target for e in given], gap_y=26.0)
    members = [graph.nodes[n] for n in names]
    title = frame_title(block, members)
    width = max(placed.width + 2 * PADDING, text_width(title, DETAIL_SIZE) + 2 * PADDING)
    analog = any(m.get("domain") == "analog" for m in members)
    head = HEAD if read else HEAD + PADDING  # ports leave room below them
    height = head + placed.height + (0.0 if given else PADDING)
    return _Block(title, analog, placed, width, height, (width - placed.width) / 2, head)


def _outer(
    graph: nx.DiGraph, named: Mapping[str, Label], home: Mapping[str, Node], blocks: Mapping[Node, _Block]
) -> Placed:
    sizes = {h: (blocks[h].width, blocks[h].height) if h in blocks else named[str(h)].size for h in home.values()}
    edges = [_between(u, v, home, blocks) for u, v in graph.edges if home[u] != home[v]]
    return layered(sizes, edges)


def _between(u: str, v: str, home: Mapping[str, Node], blocks: Mapping[Node, _Block]) -> Edge:
    a, b = home[u], home[v]
    return Edge(a, b, blocks[a].port("out", u) if a in blocks else 0.0, blocks[b].port("in", u) if b in blocks else 0.0)


def _box(
    label: Label, at: Node, name: str, whole: Placed, blocks: Mapping[Node, _Block], shift: Mapping[Node, Point]
) -> Box:
    if at not in blocks:
        return Box(label, *whole.centres[at])
    (x, y), (dx, dy) = blocks[at].inside.centres[name], shift[at]
    return Box(label, x + dx, y + dy)


def _wire(
    graph: nx.DiGraph,
    u: str,
    v: str,
    home: Mapping[str, Node],
    whole: Placed,
    blocks: Mapping[Node, _Block],
    shift: Mapping[Node, Point],
) -> Wire:
    a, b = home[u], home[v]
    feedback = bool(graph.edges[u, v].get("feedback"))
    if a == b:
        return Wire(curved(_moved(blocks[a].inside.ways[Edge(u, v)], shift[a])), feedback)
    out = _moved(blocks[a].inside.ways[Edge(u, ("out", u))], shift[a]) if a in blocks else []
    into = _moved(blocks[b].inside.ways[Edge(("in", u), v)], shift[b]) if b in blocks else []
    return Wire(curved([*out, *whole.ways[_between(u, v, home, blocks)], *into]), feedback)


def _moved(points: tuple[Point, ...], by: Point) -> list[Point]:
    return [(x + by[0], y + by[1]) for x, y in points]


def curved(points: list[Point]) -> tuple[Point, ...]:
    """Cubic curves through the points, upright at each."""
    path = [points[0]]
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(x1 - x0) + abs(y1 - y0) > 0.01:
            middle = (y0 + y1) / 2
            path += [(x0, middle), (x1, middle), (x1, y1)]
    return tuple(path)
