"""The layered layout, against its own mathematics."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from ffebm_compiler.view.layered import GAP_X, Edge, layered, pooled

values = st.lists(st.tuples(st.floats(-100, 100), st.floats(0.1, 10)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(values)
def test_pooling_is_isotonic_regression(pairs: list[tuple[float, float]]) -> None:
    wanted, weight = zip(*pairs, strict=True)
    oracle = IsotonicRegression().fit_transform(
        np.arange(len(wanted)), np.array(wanted), sample_weight=np.array(weight)
    )
    np.testing.assert_allclose(pooled(wanted, weight), oracle, atol=1e-8)


@st.composite
def acyclic(draw: st.DrawFn) -> tuple[dict[int, tuple[float, float]], list[Edge]]:
    n = draw(st.integers(1, 14))
    sizes = {i: (draw(st.sampled_from([40.0, 90.0, 200.0])), draw(st.sampled_from([20.0, 44.0]))) for i in range(n)}
    pairs = draw(st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=2 * n))
    return sizes, [Edge(a, b) for a, b in sorted(pairs) if a < b]


@settings(max_examples=60, deadline=None)
@given(acyclic())
def test_boxes_keep_apart_and_edges_go_down(case: tuple[dict[int, tuple[float, float]], list[Edge]]) -> None:
    sizes, edges = case
    placed = layered(sizes, edges)
    rows: dict[float, list[int]] = {}
    for node, (_, y) in placed.centres.items():
        rows.setdefault(y, []).append(node)
    for row in rows.values():
        row.sort(key=lambda n: placed.centres[n][0])
        for a, b in pairwise(row):
            gap = placed.centres[b][0] - placed.centres[a][0] - (sizes[a][0] + sizes[b][0]) / 2
            assert gap >= GAP_X - 1e-6
    for edge in edges:
        way = placed.ways[edge]
        start, end = placed.centres[edge.source], placed.centres[edge.target]
        np.testing.assert_allclose(way[0], (start[0], start[1] + sizes[edge.source][1] / 2))
        np.testing.assert_allclose(way[-1], (end[0], end[1] - sizes[edge.target][1] / 2))
        assert all(b[1] >= a[1] for a, b in pairwise(way))


def test_a_chain_is_one_straight_line() -> None:
    placed = layered({i: (50.0 + 30 * i, 20.0) for i in range(5)}, [Edge(i, i + 1) for i in range(4)])
    assert len({round(x, 3) for x, _ in placed.centres.values()}) == 1


def test_the_main_path_beside_skips_is_straight() -> None:
    names = [f"{kind}{i}" for i in range(6) for kind in ("conv", "relu", "add")]
    main = list(pairwise(names))
    skips = [(f"add{i}", f"add{i + 1}") for i in range(5)]
    placed = layered(
        {n: (60.0 + 10 * (i % 4), 20.0) for i, n in enumerate(names)}, [Edge(a, b) for a, b in main + skips]
    )
    assert len({round(placed.centres[n][0], 6) for n in names}) == 1
    for a, b in skips:
        assert (
            max(abs(x - placed.centres[a][0]) for x, _ in placed.ways[Edge(a, b)]) > 60
        )  # around the boxes, not through them


def test_a_planar_tree_has_no_crossings() -> None:
    tree = nx.balanced_tree(2, 3, create_using=nx.DiGraph)
    shuffled = [3, 9, 1, 14, 0, 7, 2, 12, 5, 8, 4, 10, 6, 13, 11]
    placed = layered({n: (30.0, 20.0) for n in shuffled}, [Edge(u, v) for u, v in tree.edges])
    lines = [(placed.centres[u], placed.centres[v]) for u, v in tree.edges]
    crossed = sum(
        a[0][1] == b[0][1] and (a[0][0] - b[0][0]) * (a[1][0] - b[1][0]) < 0
        for i, a in enumerate(lines)
        for b in lines[i + 1 :]
    )
    assert crossed == 0


def test_ports_stand_at_the_edges() -> None:
    placed = layered(
        {"p": (2.0, 0.0), "a": (40.0, 20.0), "b": (40.0, 20.0), "q": (2.0, 0.0)},
        [Edge("p", "b"), Edge("a", "b"), Edge("a", "q")],
        first=["p"],
        last=["q"],
    )
    heights = {n: y for n, (_, y) in placed.centres.items()}
    assert heights["p"] == min(heights.values())
    assert heights["q"] == max(heights.values())
    assert heights["p"] < heights["a"] < heights["b"] <= heights["q"]
