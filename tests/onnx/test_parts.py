"""Digital parts that are unlike the zoo's: what they read and give, what is refused and why, names, and bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from part_graphs import exported, values_of
from torch import Tensor, nn

import ffebm_compiler as fc
from benchmarks.graph_checks import check_graph, run
from benchmarks.parity import compare
from ffebm_compiler.errors import OptionError
from ffebm_compiler.onnx import FORWARD, TRAINING, VJP, ExportedPart, PartGraph
from ffebm_compiler.onnx.graph import with_data
from ffebm_compiler.onnx.session import session

PARITY = 1e-5


class AsDigital(nn.Module):
    """A module that is called as a whole."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def digital(
    function: Callable[[Any, Tensor], Any], training: bool = True, **parts: Any
) -> tuple[fc.FFEBM, ExportedPart]:
    """A model with that function as its only digital part, the layer ``whole``, and the part's graphs."""
    torch.manual_seed(1)
    net = nn.Sequential()
    net.add_module("first", nn.Sequential(nn.Linear(6, 8), nn.ReLU()))
    net.add_module("whole", AsDigital(function, **parts))
    net.add_module("last", nn.Sequential(nn.Linear(8, 3), nn.ReLU()))
    model = fc.convert(net, 2, digital=["whole"])
    model, (part,) = exported(model, (torch.randn(4, 6),), training)
    return model, part


def agrees(model: fc.FFEBM, part: ExportedPart, args: tuple[Any, ...] | None = None) -> None:
    """Every graph of the part is valid, and what torch computes, on seven samples instead of four."""
    assert not part.refused
    assert part.graphs
    values = values_of(model, args or (torch.randn(7, 6),))
    for graph in part:
        check_graph(graph)
        found = compare(graph, part.name, model.program, model.network, values, torch.Generator().manual_seed(0))
        assert found.worst <= PARITY, found


def names(ports: Any) -> list[str]:
    return [p.name for p in ports]


# --- what a part reads and gives --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_parameter_used_twice_gets_one_gradient() -> None:
    model, part = digital(lambda m, x: torch.atan(x * m.w) + m.w, w=nn.Parameter(torch.randn(8)))
    agrees(model, part)
    assert names(part.graphs[VJP].interface.gradients) == ["gradient/first.1", "gradient/whole.w"]


@pytest.mark.slow
def test_tied_parameters_are_one_input() -> None:
    one = nn.Linear(8, 8)
    other = nn.Linear(8, 8)
    other.weight = one.weight
    model, part = digital(lambda m, x: m.other(torch.atan(m.one(x))), one=one, other=other)
    agrees(model, part)
    assert names(part.graphs[TRAINING].interface.parameters) == [
        "whole.one.weight",
        "whole.one.bias",
        "whole.other.bias",
    ]


def test_a_frozen_parameter_gets_no_gradient() -> None:
    frozen = nn.Parameter(torch.randn(8), requires_grad=False)
    model, part = digital(lambda m, x: torch.atan(x * m.w) * m.v, w=frozen, v=nn.Parameter(torch.randn(8)))
    agrees(model, part)
    assert names(part.graphs[VJP].interface.gradients) == ["gradient/first.1", "gradient/whole.v"]
    assert "whole.w" in names(part.graphs[VJP].interface.parameters)


@pytest.mark.slow
def test_without_parameters() -> None:
    model, part = digital(lambda m, x: torch.atan(x))
    agrees(model, part)
    assert part.graphs[VJP].interface.parameters == ()


@pytest.mark.slow
def test_a_part_that_only_reshapes_passes_its_error_on() -> None:
    model, part = digital(lambda m, x: x.reshape(x.size(0), 2, 4).flip(1).flatten(1))
    agrees(model, part)
    assert part.graphs[VJP].interface.parameters == ()


@pytest.mark.slow
def test_a_selection_by_value_may_stand_in_a_graph() -> None:
    model, part = digital(lambda m, x: x[x > 0].sum() + x, training=False)
    agrees(model, part)


def test_an_output_that_is_an_input() -> None:
    model, part = digital(lambda m, x: x)
    agrees(model, part)
    (given,), (result,) = part.graphs[TRAINING].interface.values, part.graphs[TRAINING].interface.outputs
    assert given.name != result.name


class TwoResults(nn.Module):
    """The second result of ``split`` does not depend on its weight; a third is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.w = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        scaled, plain = torch.atan(h) * self.w, torch.atan(h)
        return torch.relu(self.b(scaled)) + torch.relu(self.c(plain))


@pytest.mark.slow
def test_two_outputs_of_which_one_has_no_parameter() -> None:
    model, (part, *_) = exported(TwoResults(), (torch.randn(4, 6),), True)
    agrees(model, part)
    assert len(part.graphs[VJP].interface.errors) == 2


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a = nn.Embedding(5, 8), nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        return torch.relu(self.a(self.embed(words)))


def test_tokens_get_no_gradient() -> None:
    model, (part,) = exported(Tokens(), (torch.randint(0, 5, (4, 3)),), True)
    agrees(model, part, (torch.randint(0, 5, (9, 3)),))
    assert names(part.graphs[VJP].interface.gradients) == ["gradient/embed.weight"]
    assert part.graphs[TRAINING].interface.values[0].dtype == "int64"


@pytest.mark.slow
def test_inputs_of_the_model_get_no_gradient() -> None:
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.ReLU())
    model, (part, *_) = exported(net, (torch.randn(4, 6),), True)
    agrees(model, part)
    assert names(part.graphs[VJP].interface.gradients) == ["gradient/0.weight", "gradient/0.bias"]


def test_a_buffer_that_is_replaced_is_a_statistic() -> None:
    def counted(m: Any, x: Tensor) -> Tensor:
        m.steps = m.steps + 1
        return torch.atan(x)

    _, part = digital(counted, steps=nn.Buffer(torch.tensor(2.0)))
    graph = part.graphs[TRAINING]
    check_graph(graph)
    (port,) = graph.interface.statistics
    assert (port.name, port.value) == ("updated/whole.steps", "whole.steps")
    x = np.ones((3, 8), np.float32)
    found = run(graph, {names(graph.interface.values)[0]: x, "whole.steps": np.array(5, np.float32)})
    assert float(found["updated/whole.steps"]) == 6
    assert np.allclose(found["whole"], np.arctan(x))


# --- random numbers --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.0, 0.25, 0.8, 1.0])
def test_dropout_keeps_where_the_number_is_at_least_p(p: float) -> None:
    _, part = digital(lambda m, x: m.drop(x), drop=nn.Dropout(p))
    graph = part.graphs[TRAINING]
    x = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    given: dict[str, Any] = {names(graph.interface.values)[0]: x} if graph.interface.values else {}
    numbers = np.random.default_rng(1).random((50, 8), np.float32)
    if 0 < p < 1:
        assert names(graph.interface.random) == names(part.graphs[VJP].interface.random) == ["random/0"]
        numbers[0, 0] = p
        given["random/0"] = numbers
    expected = np.where(numbers >= p, x / (1 - p), 0) if p < 1 else 0 * x
    if p < 1:
        assert np.allclose(run(graph, given)["whole"], expected, rtol=1e-6)
    else:
        sizes = {p.name: x for p in graph.interface.random}
        assert not run(graph, {**given, **sizes})["whole"].any()


@pytest.mark.slow
def test_every_draw_has_its_own_number_in_both_graphs() -> None:
    def noisy(m: Any, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3) + F.dropout(torch.atan(x), 0.5) + torch.bernoulli(torch.full_like(x, 0.4))

    model, part = digital(noisy)
    agrees(model, part)
    assert names(part.graphs[TRAINING].interface.random) == ["random/0", "random/1", "random/2"]
    assert names(part.graphs[VJP].interface.random) == ["random/0", "random/1"], "the third has no part in a gradient"


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.dropout2d(x.reshape(-1, 4, 2, 1), 0.3).flatten(1),
        lambda m, x: F.alpha_dropout(x, 0.3, True),
        lambda m, x: F.gumbel_softmax(x),
    ],
    ids=["dropout2d", "alpha_dropout", "gumbel_softmax"],
)
def test_other_uses_of_random_numbers(function: Any) -> None:
    model, part = digital(function)
    agrees(model, part)
    assert part.graphs[TRAINING].interface.random


@pytest.mark.slow
def test_normal_numbers_are_made_of_uniform_ones() -> None:
    _, part = digital(lambda m, x: x + torch.randn_like(x))
    graph = part.graphs[TRAINING]
    draw = np.random.default_rng(0)
    zeros = np.zeros((20_000, 8), np.float32)
    given = {p.name: draw.random(zeros.shape, np.float32) for p in graph.interface.random}
    found = run(graph, {**given, names(graph.interface.values)[0]: zeros})["whole"]
    assert abs(found.mean()) < 0.01
    assert abs(found.std() - 1) < 0.01
    assert abs((found**4).mean() - 3) < 0.1


@pytest.mark.slow
def test_other_random_numbers_are_refused() -> None:
    _, part = digital(lambda m, x: x + torch.randint(0, 3, x.shape).to(x.dtype))
    assert {r.operation for r in part.refused} == {"whole (AsDigital)"}


# --- what is refused, and why ----------------------------------------------------------------------------


class Square(torch.autograd.Function):
    """Of torch's own operations: it exports."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Tensor:
        return 3 * error * ctx.saved_tensors[0]  # not the gradient: the user's word counts


class ByNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(np.square(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Tensor:
        return 2 * error


@pytest.mark.slow
def test_a_function_of_the_users_own_keeps_its_backward() -> None:
    model, part = digital(lambda m, x: Square.apply(x))
    agrees(model, part)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda m, x: ByNumpy.apply(x), "numpy"),
        (lambda m, x: torch.linalg.svd(x.reshape(-1, 2, 4), full_matrices=False)[2].reshape(-1, 8), "svd"),
        (lambda m, x: torch.cumprod(x, 1), "prod"),
        (lambda m, x: x * float(x.sum()), "depends on the numbers"),
    ],
    ids=["numpy", "svd", "cumprod", "number"],
)  # fmt: skip
def test_what_onnx_can_not_express_names_the_layer(function: Any, word: str) -> None:
    _, part = digital(function, training=False)
    assert not part.graphs
    (refusal,) = part.refused
    assert (refusal.part, refusal.kind, refusal.operation) == ("digital1", FORWARD, "whole (AsDigital)")
    assert word in refusal.reason.lower()
    assert "\n" not in refusal.reason


def test_what_onnxruntime_can_not_run_names_the_layer() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.ReLU()).double()
    model = fc.convert(net, 2, digital=["0"])
    _, (part,) = exported(model, (torch.randn(4, 1, 5, 5, dtype=torch.float64),), False)
    assert [(r.operation, r.kind) for r in part.refused] == [("0 (Conv2d)", FORWARD)]
    assert "onnxruntime" in part.refused[0].reason


def test_what_becomes_a_loop_is_refused() -> None:
    """No reader of a bundle takes one."""
    bag = nn.Sequential(nn.EmbeddingBag(11, 6, mode="mean"), nn.Linear(6, 3), nn.ReLU())
    _, (part,) = exported(bag, (torch.randint(0, 11, (3, 5)),), False)
    (refusal,) = part.refused
    assert refusal.operation == "0 (EmbeddingBag)"
    assert "control flow" in refusal.reason


@pytest.mark.slow
def test_one_part_refused_leaves_the_others() -> None:
    bad = AsDigital(lambda m, x: x * float(x.sum()))
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), bad, nn.Linear(8, 2), nn.ReLU()
    )
    model = fc.convert(net, 2, digital=["5"])
    model, parts = exported(model, (torch.randn(4, 6),), True)
    assert [bool(p.refused) for p in parts] == [False, True]
    agrees(model, parts[0])


# --- sizes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_part_that_fixes_the_batch_says_so() -> None:
    model, part = digital(lambda m, x: torch.atan(x).reshape(4, 2, 4).flatten(1))
    for graph in part:
        check_graph(graph)
        assert graph.interface.results[0].shape == (4, 8)
        values = values_of(model, (torch.randn(4, 6),))
        found = compare(graph, part.name, model.program, model.network, values, torch.Generator())
        assert found.worst <= PARITY


def test_a_branch_on_the_batch_fixes_it() -> None:
    _, part = digital(lambda m, x: torch.atan(x) if x.size(0) > 5 else torch.tanh(x))
    assert part.graphs[TRAINING].interface.outputs[0].shape == (4, 8)


@pytest.mark.slow
def test_sizes_that_follow_from_the_batch_are_written_in_terms_of_it() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.b(torch.atan(torch.relu(self.a(x))).reshape(-1, 4)))

    model, (part,) = exported(Folded(), (torch.randn(4, 6),), True)
    agrees(model, part)
    assert part.graphs[TRAINING].interface.values[0].shape == ("batch", 8)
    assert part.graphs[TRAINING].interface.outputs[0].shape in (("2*batch", 4), ("batch", 8))


class Repeated(nn.Module):
    """Arguments that are no tensors: a number of times and a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)

    def forward(self, x: Tensor, times: int, factor: float) -> Tensor:
        return torch.atan(torch.relu(self.a(x))).repeat(1, times) * factor


def test_arguments_that_are_numbers_are_inputs() -> None:
    model, (part,) = exported(Repeated(), (torch.randn(4, 6), 2, 0.5), True)
    agrees(model, part, (torch.randn(7, 6), 3, 0.25))
    ports = {p.name: (p.dtype, p.shape) for p in part.graphs[TRAINING].interface.values}
    assert ports == {"relu": ("float32", ("batch", 8)), "times": ("int64", ()), "factor": ("float32", ())}
    assert part.graphs[TRAINING].interface.outputs[0].shape == ("batch", "8*times")


# --- names, words and bytes ------------------------------------------------------------------------------


@pytest.mark.slow
def test_names_are_the_users() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2), nn.ReLU())
    _, (part,) = exported(net, (torch.randn(4, 6),), True)
    training, vjp = part.graphs[TRAINING], part.graphs[VJP]
    statistics = ["updated/1.running_mean", "updated/1.running_var", "updated/1.num_batches_tracked"]
    assert names(training.interface.values) == ["0"]
    assert names(training.interface.parameters) == ["1.weight", "1.bias"]
    assert sorted(names(training.interface.results)) == sorted(["1", *statistics])
    assert names(vjp.interface.errors) == ["error/1"]
    assert names(vjp.interface.gradients) == ["gradient/0", "gradient/1.weight", "gradient/1.bias"]
    assert all(n.name.startswith("1/") for n in training.model.graph.node)
    assert all(n.name.startswith(("1/", "1/backward/")) for n in vjp.model.graph.node)
    assert any(n.name.startswith("1/backward/") for n in vjp.model.graph.node)
    for graph in part:
        nodes = [n.name for n in graph.model.graph.node]
        assert len(set(nodes)) == len(nodes)
        assert "1 (BatchNorm1d)" in graph.model.graph.doc_string
        assert graph.model.opset_import[0].version >= 20


@pytest.mark.slow
def test_nothing_of_this_machine_is_inside() -> None:
    _, part = digital(lambda m, x: m.norm(torch.atan(x)), norm=nn.LayerNorm(8))
    for graph in part:
        data = graph.model.SerializeToString()
        assert b".py" not in data
        assert b"site-packages" not in data
        assert os.getcwd().encode() not in data


SCRIPT = """
import hashlib, sys
sys.path.insert(0, {tests!r})
import torch
from torch import nn
from part_graphs import exported
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2), nn.Softmax(1))
_, parts = exported(net, (torch.randn(4, 6),), True)
print(hashlib.sha256(b"".join(g.model.SerializeToString(deterministic=True) for p in parts for g in p)).hexdigest())
"""


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes_in_another_process() -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]))
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


# --- weights of a forward graph --------------------------------------------------------------------------


def norms_and_convolution() -> tuple[fc.FFEBM, PartGraph]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 3), nn.ReLU())
    model = fc.convert(net, 2, digital=["0", "1"])
    model, (part, *_) = exported(model, (torch.randn(3, 1, 8, 8),), False)
    return model, part.graphs[FORWARD]


def test_a_forward_graph_holds_no_weights_but_their_places() -> None:
    _, graph = norms_and_convolution()
    assert {p.value for p in graph.interface.parameters} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert len(graph.model.SerializeToString()) < 3000
    assert [i.name for i in graph.model.graph.input] == names(graph.interface.values)


def test_onnxruntime_folds_a_norm_into_a_convolution(tmp_path: Path) -> None:
    model, graph = norms_and_convolution()
    path = tmp_path / "optimised.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    tensors = {**dict(model.network.named_parameters()), **dict(model.network.named_buffers())}
    onnxruntime.InferenceSession(
        with_data(graph.model, tensors).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = [n.op_type for n in onnx.load(path).graph.node]
    assert "BatchNormalization" not in kinds
    assert [n.op_type for n in graph.model.graph.node].count("BatchNormalization") == 1


def with_external(model: onnx.ModelProto, entries: Mapping[str, tuple[int, int]], location: str) -> onnx.ModelProto:
    """The model with the data of its initializers in a file.

    Args:
        entries: offset and length in the file, in bytes, by path.
        location: the file's name, beside the model.
    """
    placed = onnx.ModelProto()
    placed.CopyFrom(model)
    for tensor in placed.graph.initializer:
        if tensor.name in entries:
            offset, length = entries[tensor.name]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)
    return placed


def test_weights_may_lie_in_a_file_beside_the_graph(tmp_path: Path) -> None:
    model, graph = norms_and_convolution()
    tensors = {**dict(model.network.named_parameters()), **dict(model.network.named_buffers())}
    entries, data = {}, b"header!!"
    for port in (*graph.interface.parameters, *graph.interface.buffers):
        content = tensors[port.value].detach().numpy().tobytes()
        entries[port.value] = (len(data), len(content))
        data += content
    (tmp_path / "parameters.safetensors").write_bytes(data)
    onnx.save(with_external(graph.model, entries, "parameters.safetensors"), tmp_path / "digital1.onnx")
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    ready = onnxruntime.InferenceSession(tmp_path / "digital1.onnx", providers=["CPUExecutionProvider"])
    name = names(graph.interface.values)[0]
    (found,) = ready.run(None, {name: x})
    assert np.array_equal(found, next(iter(run(graph, {name: x}, tensors).values())))


# --- the checks themselves -------------------------------------------------------------------------------


def broken(graph: PartGraph, change: Callable[[onnx.ModelProto], None]) -> PartGraph:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    change(model)
    return replace(graph, model=model)


@pytest.mark.slow
def test_the_check_sees_what_is_missing_and_what_is_wrong() -> None:
    _, part = digital(lambda m, x: m.norm(x), norm=nn.BatchNorm1d(8))
    graph = part.graphs[TRAINING]
    check_graph(graph)
    lost = broken(graph, lambda m: m.graph.output.pop())
    with pytest.raises(OptionError, match="is missing, not"):
        check_graph(lost)
    wider = broken(graph, lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 9))
    with pytest.raises(OptionError):
        check_graph(wider)
    swapped = broken(graph, lambda m: m.graph.node.insert(0, m.graph.node.pop()))
    with pytest.raises(OptionError):
        check_graph(swapped)


def test_parity_sees_a_wrong_sign() -> None:
    model, part = digital(lambda m, x: torch.atan(x) * m.w, w=nn.Parameter(torch.randn(8)))

    def negate(m: onnx.ModelProto) -> None:
        last = next(n for n in m.graph.node if n.output[0] == m.graph.output[-1].name)
        last.output[0] = "before"
        m.graph.node.append(onnx.helper.make_node("Neg", ["before"], [m.graph.output[-1].name], "wrong/Neg"))

    values = values_of(model, (torch.randn(7, 6),))
    wrong = broken(part.graphs[VJP], negate)
    session(wrong.model)
    found = compare(wrong, part.name, model.program, model.network, values, torch.Generator())
    assert found.errors["parameters"] > 1
    assert found.errors["values"] <= PARITY
