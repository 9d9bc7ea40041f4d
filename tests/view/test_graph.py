"""The partition graph: complete, right, and the same after GraphML and node-link JSON."""

from __future__ import annotations

import io
import json

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from models import ZOO
from torch import Tensor, fx, nn

import ffebm_compiler as fc
from ffebm_compiler.api import compile_model
from ffebm_compiler.options import Options
from ffebm_compiler.view import partition_graph

ODD = ['weird <name> & "q"', "größe_層", "a b", "x\ty", "line\nbreak", "bell\x07", "$m^2$", "]]>", "%s{0}"]


class Toy(nn.Module):
    """A residual, a concatenation, a pooling that two states read, a digital part and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.max_pool2d(F.relu(self.stem(x)), 2)
        h = torch.cat([torch.sigmoid(self.left(h)), F.relu(self.right(h) + h)], 1)
        h = self.drop(h)
        return self.head(h.mean((2, 3))) * self.scale, h


class OddNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ODD:
            self.add_module(name, nn.Linear(4, 4))
        self.output, self.input = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for name in ODD:
            x = torch.relu(getattr(self, name)(x))
        return self.output(torch.tanh(self.input(x)))


def graph_of(model: nn.Module, block_size: int = 2, **options: object) -> nx.DiGraph:
    compiled = compile_model(model, Options(block_size=block_size, loop_gain=0.01, **options))
    return partition_graph(compiled.modes[model.training].program, compiled.network)


def feedback_edges(graph: nx.DiGraph) -> set[tuple[str, str]]:
    return {(u, v) for u, v, feedback in graph.edges(data="feedback") if feedback}


def test_every_operation_of_the_model_is_one_node_under_its_own_name() -> None:
    graph = graph_of(Toy(), 3)
    calls = [n for n in fx.symbolic_trace(Toy()).graph.nodes if n.op.startswith("call")]
    assert graph.number_of_nodes() == len(calls) + 2  # an input and the output
    assert {
        "x",
        "stem",
        "max_pool2d",
        "left",
        "right",
        "cat",
        "drop",
        "head",
        "mean",
        "add",
        "mul",
        "output",
        "relu",
        "relu@2",
    } <= set(graph)


def test_edges_are_the_data_flow_of_the_traced_model() -> None:
    graph = graph_of(Toy(), 3)
    traced = fx.symbolic_trace(Toy()).graph
    expected = {(a.name, b.name) for b in traced.nodes for a in b.all_input_nodes if a.op != "get_attr"}
    named = {"relu@2": "relu_1"}
    assert {(named.get(u, u), named.get(v, v)) for u, v in graph.edges} == expected


def test_attributes_say_where_an_operation_is_and_why() -> None:
    graph = graph_of(Toy(), 3)
    left, drop, relu = graph.nodes["left"], graph.nodes["drop"], graph.nodes["relu"]
    assert (left["domain"], left["role"], left["operation"], left["kind"], left["layer"]) == (
        "analog",
        "coupling",
        "conv2d",
        "Conv2d",
        "left",
    )
    assert left["weighted"] is True
    assert left["parameters"] == 4 * 4 * 9 + 4
    assert left["weights"] == "left.weight 4×4×3×3; left.bias 4"
    assert (drop["domain"], drop["role"]) == ("digital", "feedforward")
    assert "random" in drop["reason"]
    assert (relu["role"], relu["potential"], relu["layer"]) == ("state", "relu", "(model)")
    assert graph.nodes["mul"]["parameters"] == 5
    assert graph.graph["model"] == "Toy"


def test_a_layer_that_is_a_state_keeps_its_operation() -> None:
    head = graph_of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))).nodes["2"]
    assert (head["role"], head["operation"], head["potential"], head["weighted"]) == (
        "state",
        "linear",
        "identity",
        True,
    )


def test_feedback_runs_between_the_states_of_a_block_and_nowhere_else() -> None:
    graph = graph_of(Toy(), 3)
    assert feedback_edges(graph) == {
        ("relu", "max_pool2d"), ("max_pool2d", "left"), ("left", "sigmoid"), ("max_pool2d", "right"),
        ("right", "add"), ("max_pool2d", "add"), ("add", "relu@2"),
    }  # fmt: skip
    assert not feedback_edges(graph_of(Toy(), 1))


def test_an_operation_in_the_drives_of_two_states_is_one_node() -> None:
    graph = graph_of(Toy(), 3)
    assert {graph.nodes[n]["block"] for n in ("relu", "max_pool2d", "left", "right")} == {"block1"}
    assert sorted(graph.successors("max_pool2d")) == ["add", "left", "right"]


class ReadTwice(nn.Module):
    """A pooling that a block reads, and the model returns: it is computed on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = F.max_pool2d(F.relu(self.a(x)), 2)
        return F.relu(self.b(p)), p


def test_an_operation_on_both_sides_is_two_nodes_with_one_layer_each_in_its_block() -> None:
    graph = graph_of(ReadTwice())
    twins = [n for n, d in graph.nodes(data=True) if d["kind"] == "max_pool2d"]
    assert len(twins) == 2
    assert {graph.nodes[n]["domain"] for n in twins} == {"analog", "digital"}
    assert len({graph.nodes[n]["block"] for n in twins}) == 2
    (returned,) = [n for n in twins if graph.nodes[n]["domain"] == "digital"]
    assert list(graph.successors(returned)) == ["output"]


def test_layers_called_input_and_output_do_not_meet_the_models_own() -> None:
    graph = graph_of(OddNames())
    assert graph.nodes["output"]["kind"] == "Linear"
    assert [d["role"] for _, d in graph.nodes(data=True)].count("output") == 1


@pytest.mark.filterwarnings("ignore:Identity has no parameters")
@pytest.mark.parametrize("model", [Toy(), OddNames(), ReadTwice(), nn.Identity()], ids=lambda m: type(m).__name__)
def test_graphml_and_node_link_json_give_the_graph_back(model: nn.Module) -> None:
    graph = graph_of(model)
    stream = io.BytesIO()
    nx.write_graphml(graph, stream)
    stream.seek(0)
    linked = nx.node_link_graph(json.loads(json.dumps(nx.node_link_data(graph, edges="edges"))), edges="edges")
    for back in (nx.read_graphml(stream), linked):
        assert dict(back.nodes(data=True)) == dict(graph.nodes(data=True))
        assert sorted(back.edges(data=True), key=str) == sorted(graph.edges(data=True), key=str)
        assert back.graph["model"] == graph.graph["model"]


@pytest.mark.parametrize("entry", [e for e in ZOO if not e.export and e.requires == "torch"], ids=lambda e: e.name)
def test_every_zoo_model_gives_an_acyclic_graph_with_plain_attributes_and_reasons(entry: object) -> None:
    model, _ = entry.build()
    compiled = compile_model(model, Options(block_size=2, loop_gain=0.01))
    program = compiled.modes[model.training].program
    graph = partition_graph(program, compiled.network)
    assert nx.is_directed_acyclic_graph(graph)
    assert all(type(v) in (str, int, bool) and v != "" for _, d in graph.nodes(data=True) for v in d.values())
    operations = {n: d for n, d in graph.nodes(data=True) if d["role"] not in ("input", "output")}
    assert all(d["reason"] for d in operations.values() if d["domain"] == "digital")
    assert {d["block"] for d in operations.values()} == {step.name for step in program}
    weighted = sum(b.size for b in program.energy_blocks)
    assert sum(d["weighted"] for d in operations.values()) == weighted


def test_the_converted_model_gives_its_graph() -> None:
    model = fc.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert list(model.to_networkx()) == ["input", "0", "1", "2", "output"]
