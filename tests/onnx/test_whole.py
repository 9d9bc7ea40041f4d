"""A whole model in onnxruntime against the torch executor: the same result, and for every block the same sweeps."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from models import ZOO, Entry, mlp
from strong_blocks import Tie
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.onnx.names import graphs_of

OUTPUT = 1e-5  # of the largest value

NAMES = ("mlp_gelu", "vgg", "conv1d", "residual", "sundries", "weight_norm")
SETTINGS = [*((n, 2) for n in NAMES), ("mlp", 3), ("residual", 3)]


pytestmark = [pytest.mark.slow, pytest.mark.since("2.11", "torch.onnx translates no loops")]


def entry(name: str) -> Entry:
    return next(e for e in ZOO if e.name == name)


def tensors(values: Any) -> list[Tensor]:
    return [v for v in torch.utils._pytree.tree_leaves(values) if isinstance(v, Tensor)]


def run(path: Path, args: Any) -> dict[str, np.ndarray]:
    """Every output of a file, by name."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), tensors(args), strict=True)}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def compare(model: fc.FFEBM, path: Path, args: tuple[Any, ...]) -> None:
    """The same results and relaxations on an input."""
    found = run(path, args)
    with torch.no_grad():
        expected = tensors(model(*args))
    results = [v for n, v in found.items() if n.startswith("output") and v.dtype == np.float32]
    assert len(results) == len(expected)
    for a, b in zip(results, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=OUTPUT * float(b.detach().abs().max()))
    assert {r.block: int(found[f"{r.block}.sweeps"]) for r in model.relaxation} == {
        r.block: r.sweeps for r in model.relaxation
    }
    for r in model.relaxation:
        assert bool(found[f"{r.block}.residual"] <= 1e-4) == (r.residual <= 1e-4)


def another_batch(args: Any) -> Any:
    """Two and a half times as many samples, and others."""
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda t: torch.cat([t.roll(1, -1), t, t.flip(0)[: (len(t) + 1) // 2]]), args
    )


@pytest.mark.parametrize(("name", "size"), SETTINGS)
def test_onnxruntime_computes_what_the_executor_does(name: str, size: int, tmp_path: Path) -> None:
    net, args = entry(name).build()
    model = fc.convert(net.eval(), block_size=size)
    path = model.export_onnx(tmp_path / "net.onnx", args, diagnostics=True)
    for call in (args, another_batch(args)):
        compare(model, path, call)
    onnx.checker.check_model(str(path), full_check=True)


def test_a_loop_that_is_no_relaxation(tmp_path: Path) -> None:
    bag = nn.Sequential(nn.EmbeddingBag(11, 7, mode="mean"), nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 3))
    words = torch.randint(0, 11, (3, 6))
    model = fc.convert(bag.eval(), block_size=2)
    compare(model, model.export_onnx(tmp_path / "net.onnx", (words,), diagnostics=True), (words,))


@pytest.mark.parametrize("name", ["control_flow", "dict_input"])
def test_exported_programs_too(name: str, tmp_path: Path) -> None:
    net, args = entry(name).build()
    model = fc.convert(net.eval(), block_size=2, example_inputs=args)
    compare(model, model.export_onnx(tmp_path / "net.onnx", args, diagnostics=True), another_batch(args))


# --- relaxations that are harder ---------------------------------------------------------------------------


@pytest.mark.usefixtures("plain_sweeps")
def test_strong_feedback_takes_as_many_sweeps(tmp_path: Path) -> None:
    """Above the rounding of float32, where two orders of summation may part by a sweep."""
    net, args = entry("mlp").build()
    model = fc.convert(net.eval(), block_size=3, loop_gain=None, tolerance=1e-4)
    path = model.export_onnx(tmp_path / "net.onnx", args, diagnostics=True)
    compare(model, path, another_batch(args))
    assert max(r.sweeps for r in model.relaxation) > 5


def test_a_relaxation_that_does_not_converge_ends_at_the_same_sweep(tmp_path: Path) -> None:
    net, args = entry("mlp").build()
    model = fc.convert(net.eval(), block_size=3, loop_gain=None, max_sweeps=2)
    path = model.export_onnx(tmp_path / "net.onnx", args, diagnostics=True)
    with pytest.warns(fc.ConvergenceWarning):
        compare(model, path, args)
    assert [r.sweeps for r in model.relaxation if not r.converged] == [2]
    residual = next(r.residual for r in model.relaxation if not r.converged)
    assert float(run(path, args)["block1.residual"]) == pytest.approx(residual, rel=1e-3)


@pytest.mark.usefixtures("plain_sweeps")
def test_a_block_that_diverges_says_so(tmp_path: Path) -> None:
    net = mlp(nn.ReLU, (4, 6, 6, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(1.5 * p.abs() + 0.5)
    model = fc.convert(net.eval(), block_size=3, loop_gain=None)
    args = (torch.rand(3, 4),)
    path = model.export_onnx(tmp_path / "net.onnx", args, diagnostics=True)
    found = run(path, args)
    with pytest.warns(fc.ConvergenceWarning):
        model(*args)
    (record,) = model.relaxation
    assert found["block1.residual"] == record.residual == float("inf")
    assert found["block1.sweeps"] == record.sweeps


@pytest.mark.parametrize("loop_gain", [0.05, 0.83])
def test_winners_are_held_where_the_executor_holds_them(loop_gain: float, tmp_path: Path) -> None:
    """From the start where the gains certify a contraction, and otherwise where they go back and forth."""
    model = fc.convert(Tie().eval(), block_size=2, loop_gain=loop_gain)
    tie, clear = torch.tensor([[[1.0, 0.999]], [[1.0, 0.3]]]), torch.tensor([[[3.0, 0.5]], [[0.2, 2.9]], [[0.1, 2.7]]])
    path = model.export_onnx(tmp_path / "net.onnx", tie, diagnostics=True)
    compare(model, path, (tie,))
    assert [r.held for r in model.relaxation] == [True]
    compare(model, path, (clear,))
    assert [r.held for r in model.relaxation] == [loop_gain == 0.05]


@pytest.mark.usefixtures("plain_sweeps")
def test_tolerance_and_gains_can_be_changed_in_the_file(tmp_path: Path) -> None:
    net, args = entry("mlp").build()
    model = fc.convert(net.eval(), block_size=2, loop_gain=0.2)
    path = model.export_onnx(tmp_path / "net.onnx", args, diagnostics=True)
    file = onnx.load(path)
    for tensor in file.graph.initializer:
        if tensor.name.endswith("/tolerance"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(1e-2), tensor.name))
        elif "/layer_weight/" in tensor.name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(1, np.float32), tensor.name))
    onnx.save(file, path)
    with model.using(tolerance=1e-2, loop_gain=None):
        compare(model, path, args)


def test_over_relaxation_of_the_executor_ends_at_the_same_states(tmp_path: Path) -> None:
    """The loop of the file sweeps plainly."""
    net, args = entry("mlp").build()
    model = fc.convert(net.eval(), block_size=3, loop_gain=None, tolerance=1e-6)
    found = run(model.export_onnx(tmp_path / "net.onnx", args, diagnostics=True), args)
    with torch.no_grad():
        np.testing.assert_allclose(found["output"], model(*args).numpy(), rtol=1e-4, atol=1e-5)
    (record,) = [r for r in model.relaxation if r.sweeps > 1]
    assert record.sweeps < int(found["block1.sweeps"])


# --- the file ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[fc.FFEBM, Tensor, Path]:
    with torch.random.fork_rng():
        net, (x,) = entry("residual").build()
        model = fc.convert(net.eval(), block_size=2)
        return model, x, model.export_onnx(tmp_path_factory.mktemp("whole") / "net.onnx", x)


def test_it_has_the_users_names_and_every_weight_once(residual: tuple[fc.FFEBM, Tensor, Path]) -> None:
    model, _, path = residual
    graph = onnx.load(path).graph
    assert [v.name for v in graph.input] == ["x"]
    assert [v.name for v in graph.output] == ["output"]
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if not t.name.startswith("constant/")}
    assert {n for n in held if "/" not in n} == dict(model.named_parameters()).keys()
    assert all(np.array_equal(held[n], p.detach().numpy()) for n, p in model.named_parameters())
    read = {n for g in graphs_of(graph) for node in g.node for n in node.input}
    assert {t.name for t in graph.initializer} <= read
    loops = [n for n in graph.node if n.op_type == "Loop"]
    assert [n.name for n in loops] == [f"{b.block.name}/Loop" for b in model.blocks if b.block.has_feedback]
    carried = {v.name for n in loops for v in n.attribute[0].g.input}
    assert {
        f"{b.block.name}/state/{b.block.states[0].origin.label}" for b in model.blocks if b.block.has_feedback
    } <= carried
    assert {"stem/Conv", "a/Conv", "project/Conv", "head/Gemm"} <= {n.name for n in graph.node}


def test_the_same_model_gives_the_same_bytes_and_no_path_of_this_machine(tmp_path: Path) -> None:
    contents = []
    for name in ("first.onnx", "second.onnx"):
        net, args = entry("softmax_head").build()
        model = fc.convert(net.eval(), block_size=2)
        contents.append(model.export_onnx(tmp_path / name, args).read_bytes())
    assert contents[0] == contents[1]
    for place in (Path(torch.__file__).parent, Path(fc.__file__).parent, Path(__file__).parent, tmp_path):
        assert str(place).encode() not in contents[0]


def test_it_leaves_no_trace_in_the_model(tmp_path: Path) -> None:
    net, (x,) = entry("reused_stage").build()
    model = fc.convert(net.train(), block_size=2)
    model.network.stage[1].eval()
    model(x)
    modes, records = [m.training for m in model.modules()], model.relaxation
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model.export_onnx(tmp_path / "net.onnx", x)
    assert [m.training for m in model.modules()] == modes
    assert model.relaxation == records
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


ALONE = """
import sys
sys.modules.update({name: None for name in ("torch", "onnx", "onnxscript", "ffebm_compiler")})
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(["output"], {"x": numpy.load(sys.argv[2])})[0])
"""


def test_it_runs_where_there_is_no_torch(residual: tuple[fc.FFEBM, Tensor, Path], tmp_path: Path) -> None:
    model, x, path = residual
    np.save(tmp_path / "x.npy", x.numpy())
    files = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *files], check=True, timeout=120, cwd=tmp_path)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=0, atol=OUTPUT * np.abs(expected).max())


def test_a_result_without_feedback_has_no_loop(tmp_path: Path) -> None:
    net, args = entry("mlp").build()
    model = fc.convert(net.eval(), block_size=1)
    path = model.export_onnx(tmp_path / "net.onnx", args, diagnostics=True)
    assert all(n.op_type != "Loop" for n in onnx.load(path).graph.node)
    compare(model, path, args)


def test_an_example_may_be_a_dict_or_a_single_tensor(tmp_path: Path) -> None:
    net, (image, vector) = entry("two_inputs").build()
    model = fc.convert(net.eval(), block_size=1)
    path = model.export_onnx(tmp_path / "net.onnx", {"vector": vector, "image": image})
    session = onnxruntime.InferenceSession(str(path))
    assert [i.name for i in session.get_inputs()] == ["image", "vector"]
    with torch.no_grad(), warnings.catch_warnings():
        expected = model(image, vector).numpy()
    found = session.run(None, {"image": image.numpy(), "vector": vector.numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=OUTPUT * np.abs(expected).max())
