"""Digital parts in onnxruntime: the present weights, what does not fit, random numbers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from runtimes import compiled, loaded
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.bundle import Contents
from ffebm_compiler.bundle.run import Runtime
from ffebm_compiler.bundle.run.load import runtime_of
from ffebm_compiler.bundle.run.network import network_of
from ffebm_compiler.bundle.run.onnx_part import grouped, part_of
from ffebm_compiler.bundle.run.random_numbers import RandomNumbers
from ffebm_compiler.errors import InputError
from ffebm_compiler.onnx import FORWARD, Interface, Port, Unexportable
from ffebm_compiler.onnx.session import OnnxGraph, port_problems
from ffebm_compiler.train.steps import leaves_of

pytestmark = pytest.mark.slow


def network() -> nn.Sequential:
    """A batch norm and dropout between two blocks."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 2)
    )


@pytest.fixture(scope="module")
def contents() -> Contents:
    with torch.random.fork_rng(devices=[]):
        return compiled(fc.convert(network(), block_size=2), (torch.randn(4, 3),))


def test_changed_weights_reach_the_evaluation(contents: Contents) -> None:
    runtime, x = runtime_of(contents), torch.randn(4, 3)
    before = runtime(x)
    with torch.no_grad():
        for name, value in (("1.bias", 0.5), ("1.running_mean", -0.25)):
            dict(runtime.model.network.state_dict(keep_vars=True))[name].add_(value)
    after = runtime(x)
    assert not torch.allclose(after, before)
    net = network()
    net.load_state_dict(runtime.state_dict())
    model = fc.convert(net, block_size=2).eval()
    with torch.no_grad():
        torch.testing.assert_close(after, model(x), rtol=1e-4, atol=1e-6)


def test_a_session_is_kept_while_the_weights_stay(contents: Contents) -> None:
    runtime, x = runtime_of(contents), torch.randn(4, 3)
    part = part_of(runtime.model.network, "digital1")
    runtime(x)
    session = part._sessions[FORWARD][1]
    runtime(x)
    assert part._sessions[FORWARD][1] is session
    assert copy.deepcopy(part)._sessions == {}


def test_one_value_of_a_channel_has_no_variance(contents: Contents) -> None:
    runtime = runtime_of(contents)
    before = runtime.state_dict()
    with pytest.raises(InputError, match=r"1\.running_var(.|\n)*two samples"):
        runtime.train_step(torch.randn(1, 3), torch.tensor([0]))
    assert all(torch.equal(v, before[n]) for n, v in runtime.state_dict().items()), "nothing has moved"
    with torch.no_grad():
        runtime.model.network.get_submodule("0").weight.fill_(torch.nan)
    with pytest.warns(fc.ConvergenceWarning):  # a training that has diverged is told apart
        runtime.train_step(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    assert runtime.state_dict()["1.running_mean"].isnan().all()


def test_computed_weights_move_in_training_mode_as_in_the_executor() -> None:
    def normed() -> fc.FFEBM:
        torch.manual_seed(0)
        layers = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)
        return fc.convert(nn.Sequential(*layers), block_size=2)

    x = torch.randn(4, 3)
    runtime, model = loaded(normed(), (x,)).train(), normed().train()
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(runtime(x), model(x), rtol=1e-5, atol=1e-6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(runtime.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_a_copy_has_weights_and_random_numbers_of_its_own(contents: Contents) -> None:
    runtime, x = runtime_of(contents), torch.randn(4, 3)
    copied = copy.deepcopy(runtime.model)
    with torch.no_grad():
        copied.network.get_submodule("1").bias.add_(1.0)
    assert not torch.allclose(copied(x), runtime(x))
    runtime.train(), copied.train()
    first = copied.network.random.generator.get_state()
    with torch.no_grad():
        copied(x)
    assert not torch.equal(copied.network.random.generator.get_state(), first)
    assert torch.equal(runtime.model.network.random.generator.get_state(), first)
    part = part_of(copied.network, "digital1")
    assert part._home[0] is copied.network


def test_dropout_keeps_its_part_and_scales(contents: Contents) -> None:
    runtime = runtime_of(contents).train()
    part = part_of(runtime.model.network, "digital2")
    part.train()
    (dropped,) = part(torch.ones(20_000, 5))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    (again,) = part(torch.ones(20_000, 5))
    assert not torch.equal(again, dropped)


def test_running_statistics_move_in_training_alone(contents: Contents) -> None:
    runtime, x = runtime_of(contents), torch.randn(8, 3)
    before = runtime.state_dict()
    runtime(x)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), runtime.state_dict().values(), strict=True))
    runtime.train()(x)
    net = network().train()
    net(x)
    after = runtime.state_dict()
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        torch.testing.assert_close(after[name], net.state_dict()[name])


# --- what does not fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.randn(4, 5), r"\(4, 5\)"),
        (torch.randn(4, 3, dtype=torch.float64), "float64"),
        (torch.full((2, 3), float("nan")), "NaN"),
        (torch.zeros(0, 3), "empty"),
    ],
)
def test_inputs_that_do_not_fit_are_named(contents: Contents, x: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        runtime_of(contents)(x)


def test_arrays_do_as_tensors(contents: Contents) -> None:
    runtime, x = runtime_of(contents), torch.randn(4, 3)
    assert torch.equal(runtime(x.numpy()), runtime(x))
    with pytest.raises(InputError, match="holds object"):
        runtime(np.array([[None]]))


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "lacks input"),
        ((1, 2), {}, "2 arguments"),
        ((), {"inptu": 1}, '"input"'),
        ((1,), {"input": 1}, "input"),
    ],
)
def test_a_call_that_does_not_fit(contents: Contents, args: Any, kwargs: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        runtime_of(contents)(*args, **kwargs)


PORTS = (Port("a", "a", "float32", ("batch", 3)), Port("b", "b", "float32", ("batch",)), Port("n", "n", "int64", ()))


@pytest.mark.parametrize(
    ("a", "b", "n", "wrong"),
    [
        (torch.zeros(2, 3), torch.zeros(2), 1, []),
        (torch.zeros(2, 4), torch.zeros(2), 1, ["input first"]),
        (torch.zeros(2, 3), torch.zeros(3), 1, ["input b"]),
        (torch.zeros(2, 3).double(), torch.zeros(2).int(), 1, ["input first", "input b"]),
        (1.0, torch.zeros(2), None, ["input first", "input n"]),
        (torch.zeros(3), torch.zeros(2, 1), 1, ["input first", "input b"]),
    ],
)
def test_every_port_is_checked(a: Any, b: Any, n: Any, wrong: list[str]) -> None:
    problems = port_problems(PORTS, {"a": a, "b": b, "n": n}, {"a": "first"})
    assert [p.where for p in problems] == wrong


def test_what_onnxruntime_says_names_the_layers() -> None:
    node = onnx.helper.make_node("Nonsense", ["x"], ["y"], domain="nowhere")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2])], [value("y", 1, [2])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("nowhere", 1)])
    ports = Interface(FORWARD, values=(Port("x", "x", "float32", (2,)),), outputs=(Port("y", "y", "float32", (2,)),))
    broken = OnnxGraph("digital1 (conv3)", model.SerializeToString(), ports)
    with pytest.raises(InputError, match=r"digital1 \(conv3\)"):
        broken.session({}, {"y"})


class Inverse(nn.Module):
    """An operation that ONNX lacks, between two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.special.bessel_j1(torch.relu(self.a(x))))


def test_a_part_without_graph_says_why() -> None:
    runtime = loaded(fc.convert(Inverse(), block_size=1), (torch.randn(4, 3),))
    assert all(isinstance(r, Unexportable) for r in runtime.contents.refused)
    assert runtime.contents.refused
    with pytest.raises(InputError, match="bessel_j1"):
        runtime(torch.randn(4, 3))


# --- names -----------------------------------------------------------------------------------------------


def test_nests_by_the_names_of_their_leaves() -> None:
    x, y = torch.zeros(1), torch.ones(1)
    leaves = dict(leaves_of({"a": (x, {"k": y}), "b": 3}))
    assert list(leaves) == ["a[0]", "a[1]", "b"]
    back = grouped(["a", "b"], leaves)
    assert back["a"][1] is y
    assert back["b"] == 3


@pytest.mark.parametrize("path", ["forward", "training", "a..b", "_parameters", ""])
def test_paths_that_no_module_can_hold_are_refused(contents: Contents, path: str) -> None:
    from dataclasses import replace

    tensors = {**contents.tensors, path: torch.zeros(2)}
    with pytest.raises(InputError, match="no module can hold it"):
        network_of(replace(contents, tensors=tensors), RandomNumbers(), None)


def test_the_stand_in_keeps_the_order_and_the_ties_of_the_user(contents: Contents) -> None:
    runtime: Runtime = runtime_of(contents)
    assert [n for n, _ in runtime.model.network.named_parameters()] == [n for n, _ in network().named_parameters()]
    assert list(runtime.state_dict()) == list(network().state_dict())


def test_weights_that_are_written_unseen_reach_blocks_and_digital_parts(contents: Contents) -> None:
    """Through .data no tensor counts a change; the gains of the block and the graph's own copies follow all the
    same.
    """
    runtime, x = runtime_of(contents), torch.randn(4, 3)
    runtime(x)
    for p in runtime.model.network.parameters():
        p.data.mul_(2)
    net = network()
    net.load_state_dict(runtime.state_dict())
    model = fc.convert(net, block_size=2).eval()
    with torch.no_grad():
        torch.testing.assert_close(runtime(x), model(x), rtol=1e-5, atol=1e-6)
    assert [r.sweeps for r in runtime.relaxation] == [r.sweeps for r in model.relaxation]
    ours, theirs = ([b.certificate for b in m.blocks] for m in (runtime, model))
    assert [c.coupling for c in ours] == pytest.approx([c.coupling for c in theirs], rel=1e-5)
