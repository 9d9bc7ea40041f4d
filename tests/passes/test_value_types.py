"""The kinds of values are found once, also of those that a graph gets later, wherever they are put."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

from ffebm_compiler.passes.graph.value_types import ValueTypes


def test_values_that_are_added_later_are_found() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    kinds = ValueTypes(graph, nn.Identity(), {"x": Tensor})
    rows = graph.call_method("size", (x, 0))
    with graph.inserting_before(rows):
        between = graph.call_function(torch.relu, (x,))
    twice = graph.call_function(operator.mul, (rows, rows))
    scaled = graph.call_function(operator.mul, (twice, between))
    assert [kinds(n) for n in (scaled, twice, between, rows, x)] == [Tensor, int, Tensor, int, Tensor]


def test_a_long_chain_that_is_added_later_is_no_deep_recursion() -> None:
    graph = fx.Graph()
    value = graph.placeholder("x")
    kinds = ValueTypes(graph, nn.Identity(), {"x": int})
    for _ in range(5000):
        value = graph.call_function(operator.add, (value, value))
    assert kinds(value) is int


def test_what_was_found_is_not_looked_for_again() -> None:
    """A pass may change the operands of a value meanwhile, which is still of its kind."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    total = graph.call_function(operator.add, (x, x))
    kinds = ValueTypes(graph, nn.Identity(), {"x": Tensor})
    total.args = (x, graph.call_function(len, (x,)))
    assert kinds(total) is Tensor
