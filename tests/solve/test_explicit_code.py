"""Cutting code: whatever is given first, both halves together are the whole."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from ffebm_compiler.solve.explicit_code import Code, as_code, cut, only

NAMES = ("a", "b", "c", "d")
STEPS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (operator.add, operator.mul, torch.maximum)

exact = settings(deadline=None, derandomize=True, max_examples=60)


@st.composite
def programs(draw: st.DrawFn) -> Code:
    """Random straight-line code of four inputs; an output may be an input, or come twice."""
    graph = fx.Graph()
    values = [graph.placeholder(n) for n in NAMES]
    for _ in range(draw(st.integers(0, 12))):
        left, right = (values[draw(st.integers(0, len(values) - 1))] for _ in range(2))
        values.append(graph.call_function(draw(st.sampled_from(STEPS)), (left, right)))
    results = [values[draw(st.integers(0, len(values) - 1))] for _ in range(draw(st.integers(1, 4)))]
    graph.output(tuple(results))
    module = fx.GraphModule(torch.nn.Module(), graph)
    return Code(NAMES, tuple(f"y{i}" for i in range(len(results))), module)


def numbers() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(3, generator=generator, dtype=torch.float64) for n in NAMES}


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


@exact
@given(programs(), st.sets(st.sampled_from(NAMES)))
def test_both_halves_are_the_whole(code: Code, first: set[str]) -> None:
    values = numbers()
    before, after = cut(code, first)
    assert set(before.inputs) <= first
    kept = before({n: values[n] for n in first})
    assert same({**{k: kept[k] for k in code.outputs if k in kept}, **after({**values, **kept})}, code(values))


@exact
@given(programs(), st.permutations(NAMES))
def test_cut_again_and_again_nothing_runs_twice(code: Code, order: list[str]) -> None:
    values, parts, rest = numbers(), [], code
    for name in order:
        before, rest = cut(rest, {*rest.inputs} - {*order[order.index(name) + 1 :]})
        parts.append(before)
    known = dict(values)
    for part in (*parts, rest):
        known |= part(known)
    assert same({k: known[k] for k in code.outputs}, code(values))
    calls = [n for part in (*parts, rest) for n in part.module.graph.nodes if n.op == "call_function"]
    assert len(calls) == sum(n.op == "call_function" for n in only(code, code.outputs).module.graph.nodes)


@exact
@given(programs(), st.data())
def test_a_part_gives_what_it_is_asked_for(code: Code, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(code.outputs), unique=True))
    part = only(code, chosen)
    whole = code(numbers())
    assert list(part.outputs) == chosen
    assert same(part({n: numbers()[n] for n in part.inputs}), {k: whole[k] for k in chosen})


def test_constants_are_held_where_they_are_used() -> None:
    root = torch.nn.Module()
    root.register_buffer("two", torch.tensor(2.0))
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    early = graph.call_function(torch.mul, (a, graph.get_attr("two")))
    late = graph.call_function(torch.add, (early, graph.call_function(torch.mul, (b, graph.get_attr("two")))))
    graph.output((late,))
    code = as_code(fx.GraphModule(root, graph), ("a", "b"), ("y",))
    before, after = cut(code, {"a"})
    kept = before({"a": torch.tensor(3.0)})
    assert len(kept) == 1
    assert float(after({**kept, "b": torch.tensor(5.0)})["y"]) == 16
