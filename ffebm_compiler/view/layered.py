"""Layered drawing of an acyclic graph, top to bottom (Sugiyama, Tagawa & Toda 1981).

Ranks by longest path; an edge across ranks gets a dummy in each; barycentre sweeps reduce crossings; then, rank by
rank, positions minimise ``sum_edges w_e (x_source - x_target)^2`` subject to the gaps, which pooling adjacent violators
solves exactly; reweighting w_e by 1 / |x_source - x_target| turns many slight bends into few large ones, and chains are
drawn straight where there is room. Pure Python: a drawing needs no program beside it.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx

from .scene import Point

Node = Hashable
GAP_X, GAP_Y = 26.0, 38.0
ORDER_SWEEPS, MEAN_SWEEPS, STRAIGHT_SWEEPS, RUN_SWEEPS = 24, 16, 24, 12


@dataclass(frozen=True)
class Edge:
    """An edge, with where it meets its ends: offsets from their centres."""

    source: Node
    target: Node
    leaves: float = 0.0
    enters: float = 0.0


@dataclass(frozen=True)
class Placed:
    """Centres of the nodes, the way of each edge, and the size of the whole."""

    centres: Mapping[Node, Point]
    ways: Mapping[Edge, tuple[Point, ...]]
    width: float
    height: float


def layered(
    sizes: Mapping[Node, Point],
    edges: Sequence[Edge],
    first: Sequence[Node] = (),
    last: Sequence[Node] = (),
    gap_y: float = GAP_Y,
) -> Placed:
    """Places nodes of the given sizes; ``first`` stand in the top rank and ``last`` in the bottom one."""
    work = _Layout(dict(sizes), tuple(dict.fromkeys(edges)), gap_y)
    work.rank(first, last)
    work.add_dummies()
    work.order()
    work.place()
    return work.result()


class _Layout:
    """The mutable work of one drawing."""

    def __init__(self, sizes: dict[Node, Point], edges: tuple[Edge, ...], gap_y: float):
        self.sizes, self.edges, self.gap_y = sizes, edges, gap_y
        self.ranks: dict[Node, int] = {}
        self.rows: list[list[Node]] = []
        self.chains: dict[Edge, list[Any]] = {}
        self.up: dict[Node, list[tuple[Node, float, float]]] = {}  # (neighbour, offset there, offset here)
        self.down: dict[Node, list[tuple[Node, float, float]]] = {}
        self.x: dict[Node, float] = {}

    # --- ranks ---

    def rank(self, first: Sequence[Node], last: Sequence[Node]) -> None:
        graph = nx.DiGraph()
        graph.add_nodes_from(self.sizes)
        graph.add_edges_from((e.source, e.target) for e in self.edges)
        order = list(
            nx.lexicographical_topological_sort(graph, key={n: i for i, n in enumerate(self.sizes)}.__getitem__)
        )
        top = {n: 0 for n in first}
        for n in order:
            above = [self.ranks[p] + 1 for p in graph.predecessors(n)]
            self.ranks[n] = top.get(n, max(above, default=1 if first else 0))
        for n in reversed(order):  # what nothing feeds stands next to what reads it
            if n not in top and graph.in_degree(n) == 0 and graph.out_degree(n):
                self.ranks[n] = min(self.ranks[s] for s in graph.successors(n)) - 1
        bottom = max(self.ranks.values(), default=0)
        self.ranks.update({n: bottom for n in last})

    def add_dummies(self) -> None:
        for edge in self.edges:
            between = range(self.ranks[edge.source] + 1, self.ranks[edge.target])
            dummies: list[Any] = [("dummy", edge, r) for r in between]
            for dummy, r in zip(dummies, between, strict=True):
                self.sizes[dummy], self.ranks[dummy] = (2.0, 0.0), r
            self.chains[edge] = [edge.source, *dummies, edge.target]
            offsets = [edge.leaves, *(0.0 for _ in dummies), edge.enters]
            for i in range(len(dummies) + 1):
                a, b = self.chains[edge][i : i + 2]
                self.down.setdefault(a, []).append((b, offsets[i + 1], offsets[i]))
                self.up.setdefault(b, []).append((a, offsets[i], offsets[i + 1]))

    # --- order within ranks ---

    def order(self) -> None:
        rows: list[list[Node]] = [[] for _ in range(max(self.ranks.values(), default=-1) + 1)]
        for node, r in self.ranks.items():
            rows[r].append(node)
        best, fewest = rows, self.crossings(rows)
        for sweep in range(ORDER_SWEEPS):
            if fewest == 0:
                break
            rows = self.swept(rows, downwards=sweep % 2 == 0)
            if (count := self.crossings(rows)) < fewest:
                best, fewest = rows, count
        self.rows = best

    def swept(self, rows: list[list[Node]], downwards: bool) -> list[list[Node]]:
        neighbours = self.up if downwards else self.down
        rows = [list(row) for row in rows]
        for r in range(1, len(rows)) if downwards else range(len(rows) - 2, -1, -1):
            beside = {n: i for i, n in enumerate(rows[r - 1 if downwards else r + 1])}
            now = {n: float(i) for i, n in enumerate(rows[r])}
            key = {
                n: _mean([beside[m] + 1e-3 * there for m, there, _ in neighbours.get(n, ())], now[n]) for n in rows[r]
            }
            rows[r].sort(key=key.__getitem__)
        return rows

    def crossings(self, rows: list[list[Node]]) -> int:
        total = 0
        for above, below in pairwise(rows):
            at = {n: i for i, n in enumerate(below)}
            ends = [
                (i + 1e-4 * here, at[m] + 1e-4 * there)
                for i, n in enumerate(above)
                for m, there, here in self.down.get(n, ())
            ]
            seen: list[float] = []
            for _, end in sorted(ends):  # an edge crosses those further left that end further right
                total += len(seen) - bisect_right(seen, end)
                insort(seen, end)
        return total

    # --- positions ---

    def place(self) -> None:
        for row in self.rows:
            at = 0.0
            for node in row:
                self.x[node] = at + self.sizes[node][0] / 2
                at += self.sizes[node][0] + GAP_X
        for sweep in range(MEAN_SWEEPS + STRAIGHT_SWEEPS):
            for row in self.rows if sweep % 2 == 0 else self.rows[::-1]:
                self.settle(row, straighten=sweep >= MEAN_SWEEPS)
        runs = self.runs()
        seats = {n: (row, i) for row in self.rows for i, n in enumerate(row)}
        for sweep in range(RUN_SWEEPS):
            for run in runs if sweep % 2 == 0 else runs[::-1]:
                self.shift(run, seats)

    def settle(self, row: list[Node], straighten: bool) -> None:
        """Moves one rank to where its edges pull it."""
        wanted, weight = [], []
        for n in row:
            ends = [
                (self.x[m] + there - here, _stiffness(n, m))
                for side in (self.up, self.down)
                for m, there, here in side.get(n, ())
            ]
            pull = [w / (1.0 + abs(x - self.x[n])) if straighten else w for x, w in ends]
            total = sum(pull)
            wanted.append(sum(x * p for (x, _), p in zip(ends, pull, strict=True)) / total if ends else self.x[n])
            weight.append(total if ends else 1e-3)
        offsets = [0.0]
        for a, b in pairwise(row):
            offsets.append(offsets[-1] + self.apart(a, b))
        flat = pooled([w - o for w, o in zip(wanted, offsets, strict=True)], weight)
        self.x.update({n: f + o for n, f, o in zip(row, flat, offsets, strict=True)})

    # --- runs: what can be drawn as one vertical line is, where there is room ---

    def runs(self) -> list[list[tuple[Node, float]]]:
        """Chains of nodes that are each other's main neighbours, with how far each stands right of the first."""
        below = {n: self.main(n, ends) for n, ends in self.down.items()}
        above = {n: self.main(n, ends) for n, ends in self.up.items()}
        joined = {n: end for n, end in below.items() if above[end[0]][0] == n}
        followed = {end[0] for end in joined.values()}
        runs = []
        for node in (n for row in self.rows for n in row if n not in followed):
            run: list[tuple[Node, float]] = [(node, 0.0)]
            while run[-1][0] in joined:
                node, right = run[-1]
                following, there, here = joined[node]
                run.append((following, right + here - there))
            runs.append(run)
        return runs

    def main(self, node: Node, ends: list[tuple[Node, float, float]]) -> tuple[Node, float, float]:
        """The neighbour to stand in line with: a node rather than a long edge, and the middle one of several."""
        real = [e for e in ends if not _is_dummy(e[0])] or ends
        return sorted(real, key=lambda e: self.x[e[0]] + e[1])[len(real) // 2]

    def shift(self, run: list[tuple[Node, float]], seats: Mapping[Node, tuple[list[Node], int]]) -> None:
        """Moves a run, in line, to where its other edges pull it, if its neighbours leave room, else in halves."""
        own = {n for n, _ in run}
        low, high, ends = -math.inf, math.inf, []
        for n, right in run:
            row, i = seats[n]
            if i > 0:
                low = max(low, self.x[row[i - 1]] + self.apart(row[i - 1], n) - right)
            if i + 1 < len(row):
                high = min(high, self.x[row[i + 1]] - self.apart(n, row[i + 1]) - right)
            ends += [
                (self.x[m] + there - here - right, _stiffness(n, m))
                for side in (self.up, self.down)
                for m, there, here in side.get(n, ())
                if m not in own
            ]
        if low > high:  # no one line for all of it
            for part in (run[: len(run) // 2], run[len(run) // 2 :]) if len(run) > 1 else ():
                self.shift(part, seats)
            return
        total = sum(w for _, w in ends)
        wanted = sum(x * w for x, w in ends) / total if ends else sum(self.x[n] - right for n, right in run) / len(run)
        self.x.update({n: min(max(wanted, low), high) + right for n, right in run})

    def apart(self, a: Node, b: Node) -> float:
        return (self.sizes[a][0] + self.sizes[b][0]) / 2 + GAP_X

    # --- result ---

    def result(self) -> Placed:
        if not self.rows:
            return Placed({}, {}, 0.0, 0.0)
        left = min(self.x[n] - self.sizes[n][0] / 2 for row in self.rows for n in row)
        right = max(self.x[n] + self.sizes[n][0] / 2 for row in self.rows for n in row)
        tops, heights, y = [], [], 0.0
        for row in self.rows:
            tops.append(y)
            heights.append(max(self.sizes[n][1] for n in row))
            y += heights[-1] + self.gap_y
        centre = {n: (self.x[n] - left, tops[r] + heights[r] / 2) for r, row in enumerate(self.rows) for n in row}
        ways = {e: self.way(e, centre, tops, heights) for e in self.edges}
        return Placed({n: p for n, p in centre.items() if not _is_dummy(n)}, ways, right - left, y - self.gap_y)

    def way(
        self, edge: Edge, centre: Mapping[Node, Point], tops: list[float], heights: list[float]
    ) -> tuple[Point, ...]:
        """Corner points, straight down through each rank and bent between them."""
        points: list[Point] = []
        chain = self.chains[edge]
        for i, node in enumerate(chain):
            x, y = centre[node]
            x += edge.leaves if i == 0 else edge.enters if i == len(chain) - 1 else 0.0
            r, half = self.ranks[node], self.sizes[node][1] / 2
            top = y - half if i == len(chain) - 1 else tops[r]
            bottom = y + half if i == 0 else tops[r] + heights[r]
            if i > 0:
                points.append((x, tops[r]))
                if top > tops[r]:
                    points.append((x, top))
            if i < len(chain) - 1:
                points.append((x, bottom))
                if bottom < tops[r] + heights[r]:
                    points.append((x, tops[r] + heights[r]))
        return tuple(points)


def _is_dummy(node: Node) -> bool:
    return isinstance(node, tuple) and len(node) == 3 and node[0] == "dummy"


def _stiffness(a: Node, b: Node) -> float:
    """Long edges are kept straighter than short ones."""
    return (1.0, 2.0, 8.0)[_is_dummy(a) + _is_dummy(b)]


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def pooled(wanted: Sequence[float], weight: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to ``wanted`` in weighted least squares."""
    pools: list[list[float]] = []  # value, weight, length
    for value, w in zip(wanted, weight, strict=True):
        pools.append([value, w, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            b, a = pools.pop(), pools.pop()
            total = a[1] + b[1]
            pools.append([(a[0] * a[1] + b[0] * b[1]) / total, total, a[2] + b[2]])
    return [value for value, _, length in pools for _ in range(int(length))]
