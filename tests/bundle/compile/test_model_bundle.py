"""What a bundle is made of, that making it leaves no trace, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler import runtime
from ffebm_compiler.backends.torch_ep import private_copy
from ffebm_compiler.bundle import Contents, read_bundle, write_bundle
from ffebm_compiler.bundle.compile.gathering import Subject, contents_of
from ffebm_compiler.bundle.compile.options import BundleOptions
from ffebm_compiler.bundle.run.network import network_of
from ffebm_compiler.bundle.run.random_numbers import RandomNumbers
from ffebm_compiler.chip.emulate import load_chip
from ffebm_compiler.errors import InputError, OptionError
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.onnx import FORWARD, TRAINING, VJP

pytestmark = pytest.mark.slow


class Net(nn.Module):
    """A tied weight, a frozen one, running statistics and a hidden buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)
        self.third = nn.Linear(6, 6)
        self.third.weight = self.second.weight
        self.first.bias.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.norm(self.first(x)))
        return {"logits": self.drop(torch.relu(self.third(torch.relu(self.second(h)))) * self.scale), "hidden": h}


class Foreign(nn.Module):
    """What ONNX can't express, between two layers; called as a whole."""

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(x.unsqueeze(-1))
        return x * values


def foreign() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), Foreign(), nn.Linear(5, 5), nn.ReLU(), Foreign(), nn.Linear(5, 2))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> fc.FFEBM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fc.convert(Net(), block_size=2)


@pytest.fixture(scope="module")
def contents(model: fc.FFEBM) -> Contents:
    return contents_of(Subject(private_copy(runner_of(model)), (X,), {}, BundleOptions()))


# --- what is in it ----------------------------------------------------------------------------------------


def test_tensors_stand_under_the_models_own_names(contents: Contents, model: fc.FFEBM) -> None:
    assert contents.aliases == {"third.weight": "second.weight"}
    assert set(contents.tensors) - set(contents.hidden) | set(contents.aliases) == set(model.state_dict())
    assert contents.hidden == ("scale",)
    assert contents.parameters == tuple(n for n, _ in model.named_parameters())
    assert contents.frozen == ("first.bias",)
    for name, value in model.state_dict().items():
        assert torch.equal(contents.tensors[contents.aliases.get(name, name)], value)


def test_each_mode_has_the_graphs_that_it_needs(contents: Contents) -> None:
    assert {k for kinds in contents.modes[False].parts.values() for k in kinds} == {FORWARD}
    assert {k for kinds in contents.modes[True].parts.values() for k in kinds} == {TRAINING, VJP}
    assert contents.name == "Net"
    assert contents.training
    assert contents.execution["loop_gain"] == 0.01
    assert contents.execution["estimator"] == {"name": "TangentEP", "options": {}}


def test_recorded_values_are_the_models(contents: Contents, model: fc.FFEBM) -> None:
    own = private_copy(runner_of(model))
    own.train(False)
    with torch.no_grad():
        found = own.run((X,), {})
    logits, hidden = (contents.modes[False].result[k].name for k in ("logits", "hidden"))
    assert torch.equal(contents.samples[f"evaluation/value/{logits}"], found["logits"])
    assert torch.equal(contents.samples[f"evaluation/value/{hidden}"], found["hidden"])


def test_recorded_gradients_are_those_of_the_layers_by_hand(contents: Contents, model: fc.FFEBM) -> None:
    """The norm by itself in training mode, from the definition, in float64."""
    samples = contents.samples
    ((part, kinds),) = [
        (n, k) for n, k in contents.modes[True].parts.items() if any("norm" in p.value for p in k[VJP].parameters)
    ]
    (x,) = [samples[f"training/value/{p.value}"].double() for p in kinds[VJP].values]
    (error,) = [samples[f"training/error/{part}/{p.name}"].double() for p in kinds[VJP].errors]
    weight = model.get_parameter("norm.weight").detach().double()
    deviation = (x.var(0, unbiased=False) + 1e-5).sqrt()
    z = (x - x.mean(0)) / deviation
    gradient = weight * (error - error.mean(0) - z * (error * z).mean(0)) / deviation
    by_value = {p.value: p.name for p in kinds[VJP].gradients}
    name = next(n for v, n in by_value.items() if not v.startswith("norm."))
    torch.testing.assert_close(samples[f"training/gradient/{part}/{name}"].double(), gradient, rtol=1e-4, atol=1e-6)
    scale = (error * z).sum(0)
    wanted = torch.stack([scale.sum(), scale.norm()])
    torch.testing.assert_close(samples[f"training/norm/{part}/{by_value['norm.weight']}"], wanted, rtol=1e-4, atol=1e-6)
    mean = 0.1 * x.mean(0)
    torch.testing.assert_close(
        samples[f"training/statistics/{part}/norm.running_mean"].double(), mean, rtol=1e-5, atol=1e-7
    )


def test_pages_are_for_people(contents: Contents) -> None:
    graph = nx.node_link_graph(json.loads(contents.files["graph.json"]), edges="edges")
    assert {"first", "norm", "second", "third"} <= set(graph)
    page = contents.files["report.html"].decode()
    assert "<title>Net</title>" in page
    assert "<svg" in page
    compile(contents.files["training_loop.py"], "training_loop.py", "exec")


def test_a_chip_comes_with_its_conductances_and_netlists(model: fc.FFEBM, tmp_path: Path) -> None:
    path = model.compile_to(tmp_path / "build", (X,), hardware="rram", chip_seed=3)
    chip = load_chip(path / "conductances.npz")
    wanted = model.eval().lower(hardware="rram", chip_seed=3).calibrate(X)
    with torch.no_grad():
        wanted(X)
    model.train()
    assert set(chip.devices) == set(wanted.chip.devices)
    assert all(torch.equal(chip.weight(p), wanted.chip.weight(p)) for p in chip.devices)
    blocks = [b.name for b in model.program.energy_blocks]
    assert [e["file"] for e in json.loads((path / "netlists.json").read_bytes())["netlists"]] == [
        f"{b}.cir" for b in blocks
    ]
    assert all((path / f"{b}.cir").is_file() for b in blocks)


def test_a_block_too_large_for_a_netlist_is_listed_with_the_reason(
    model: fc.FFEBM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffebm_compiler.chip.emulate.unrolling.MOST_ENTRIES", 30)
    options = BundleOptions(hardware="ideal")
    found = contents_of(Subject(private_copy(runner_of(model)), (X,), {}, options))
    left_out = found.options["compilation"]["without_netlist"]
    assert left_out
    assert all("30" in why for why in left_out.values())
    assert not any(f"{b}.cir" in found.files for b in left_out)
    assert "Blocks without a netlist" in found.files["report.html"].decode()
    assert "conductances.npz" in found.files


# --- no trace ---------------------------------------------------------------------------------------------


def test_nothing_of_the_users_changes(tmp_path: Path) -> None:
    model = fc.convert(Net(), block_size=2)
    model.network.norm.eval()  # a frozen norm in a model that trains
    before = {n: t.clone() for n, t in model.state_dict().items()}
    versions, modes = [p._version for p in model.parameters()], [m.training for m in model.modules()]
    random, example = torch.get_rng_state(), X.clone()
    model.compile_to(tmp_path / "net.ffebm", example)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert versions == [p._version for p in model.parameters()]
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(example, X)
    assert not runner_of(model).block_gains.store.used  # what it had not measured it still has not
    assert all(p.grad is None for p in model.parameters())
    assert model.relaxation == ()


PROGRAM = """
import sys, torch
sys.path.insert(0, {folder!r})
import test_model_bundle as t
from ffebm_compiler.model.converted_module import runner_of
import ffebm_compiler as fc
torch.manual_seed(0)
model = fc.convert(t.Net(), block_size=2)
options = t.BundleOptions(hardware="rram")
contents = t.contents_of(t.Subject(t.private_copy(t.runner_of(model)), (t.X,), {{}}, options))
for name in ("build", "build.ffebm"):
    t.write_bundle(contents, sys.argv[1] + "/" + name)
"""


def test_the_same_model_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    started = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        program = [sys.executable, "-c", PROGRAM.format(folder=str(Path(__file__).parent)), str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        started.append(subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True))
    assert [(p.communicate()[1], p.returncode)[1] for p in started] == [0, 0]
    one, two = (tmp_path / seed for seed in ("1", "2"))
    names = sorted(p.name for p in (one / "build").iterdir())
    assert names == sorted(p.name for p in (two / "build").iterdir())
    assert [n for n in names if (one / "build" / n).read_bytes() != (two / "build" / n).read_bytes()] == []
    assert (one / "build.ffebm").read_bytes() == (two / "build.ffebm").read_bytes()


# --- refusals ---------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_told_at_once(model: fc.FFEBM, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as told:
        model.compile_to(tmp_path / "none" / "build", X[:1], hardware="rrram", chip_seed=-1, unexportable="ignore")
    text = str(told.value)
    assert len(told.value.problems) == 5
    for what in ("there is no folder", "one sample", '"rram"', "chip_seed: is -1", "unexportable: is 'ignore'"):
        assert what in text
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("example", "options", "what"),
    [
        (None, {}, "is missing"),
        ("x", {}, "holds no tensor"),
        (torch.zeros(0, 4), {}, "has no sample"),
        (X, {"chip_seed": 2}, "is given without hardware"),
        (X, {"hardware": "chip.toml"}, "chip.toml"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(
    model: fc.FFEBM, tmp_path: Path, example: Any, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(OptionError, match=what):
        model.compile_to(tmp_path / "build", example, **options)
    assert [*tmp_path.iterdir()] == []


def test_a_place_that_is_taken_is_left_as_it_is(model: fc.FFEBM, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    (tmp_path / "a_file").write_text("a file")
    (tmp_path / "old.ffebm").write_text("an old bundle")
    (tmp_path / "folder.ffebm").mkdir()
    for name, what in (
        ("thesis", "something else"),
        ("a_file", "is a file"),
        ("old.ffebm", "exists"),
        ("folder.ffebm", "is a folder"),
        ("net.onnx", "is named as a .onnx file"),
        ("a_file/build", "there is no folder"),
    ):
        with pytest.raises(OptionError, match=what):
            model.compile_to(tmp_path / name, X, overwrite=name == "thesis")
    with pytest.raises(OptionError, match="is a int"):
        model.compile_to(3, X)  # type: ignore[arg-type]
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"
    assert (tmp_path / "old.ffebm").read_text() == "an old bundle"
    assert len([*tmp_path.iterdir()]) == 4


def test_a_bundle_inside_a_bundle_is_refused(model: fc.FFEBM, tmp_path: Path) -> None:
    outer = tmp_path / "build"
    outer.mkdir()
    (outer / "manifest.json").write_text("{}")
    (outer / "program.json").write_text("{}")
    for inner in ("inner.ffebm", "inner"):
        with pytest.raises(OptionError, match="is inside the bundle"):
            model.compile_to(outer / inner, X)


@pytest.mark.parametrize("name", ["build", "build.ffebm"])
def test_a_disk_that_refuses_leaves_what_was_there(
    contents: Contents, model: fc.FFEBM, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(contents, tmp_path / name)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OptionError, match="No space left on device") as failure:
        model.compile_to(tmp_path / name, X, overwrite=True)
    assert str(failure.value).count(name) == 1
    assert "Write a folder" not in str(failure.value)
    assert read_bundle(tmp_path / name).name == "Net"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_input_that_does_not_fit_names_the_layer(model: fc.FFEBM, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layer first"):
        model.compile_to(tmp_path / "build", torch.randn(3, 5))
    assert [*tmp_path.iterdir()] == []


def test_resistors_refuse_what_they_cannot_be(tmp_path: Path) -> None:
    model = fc.convert(nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2)), block_size=2)
    with pytest.raises(OptionError, match="layer 1"):
        model.compile_to(tmp_path / "build", X, hardware=fc.Hardware(physics="resistive"))


def test_what_onnx_cannot_express_is_refused_with_every_layer_or_left_out(tmp_path: Path) -> None:
    model = fc.convert(foreign(), block_size=1, digital=["2", "5"])
    with pytest.raises(OptionError) as told:
        model.compile_to(tmp_path / "build", X)
    text = str(told.value)
    assert "2 (Foreign)" in text
    assert "5 (Foreign)" in text
    assert "unexportable='skip'" in text
    assert [*tmp_path.iterdir()] == []
    contents = read_bundle(model.compile_to(tmp_path / "build", X, unexportable="skip"))
    assert {r.operation.split(" ")[0] for r in contents.refused} == {"2", "5"}
    page = contents.files["report.html"].decode()
    assert "Graphs that ONNX can&#x27;t express" in page
    assert "5 (Foreign)" in page


def test_weights_that_onnx_cannot_compute_are_never_left_out(tmp_path: Path) -> None:
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 5))
    model = fc.convert(nn.Sequential(layer, nn.ReLU(), nn.Linear(5, 2)), block_size=2)
    for asked in ("refuse", "skip"):
        with pytest.raises(OptionError, match=r"0\.weight (.|\n)*remove_parametrizations"):
            model.compile_to(tmp_path / "build", X, unexportable=asked)
    assert [*tmp_path.iterdir()] == []


class OwnEstimator(fc.Implicit):
    pass


def test_an_estimator_of_ones_own_has_no_name_in_a_bundle(tmp_path: Path) -> None:
    model = fc.convert(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), estimator=OwnEstimator())
    with pytest.raises(OptionError, match="OwnEstimator is your own"):
        model.compile_to(tmp_path / "build", X)


def test_a_layer_may_not_be_called_as_a_part(contents: Contents, tmp_path: Path) -> None:
    net = nn.Sequential()
    for name, layer in {"digital1": nn.Linear(4, 4), "onnx digital1": nn.Linear(4, 4), "drop": nn.Dropout(0.3)}.items():
        net.add_module(name, layer)
    with pytest.raises(OptionError, match="layer onnx digital1: has a name that a bundle gives to a digital part"):
        fc.convert(net, block_size=2).compile_to(tmp_path / "net.ffebm", X)
    tensors = {p.replace("first", "onnx digital1"): t for p, t in contents.tensors.items()}
    parameters = tuple(p.replace("first", "onnx digital1") for p in contents.parameters)
    with pytest.raises(InputError, match="layer onnx digital1: has the name of the digital part digital1"):
        network_of(replace(contents, tensors=tensors, parameters=parameters, frozen=()), RandomNumbers(), None)


def test_a_bundle_is_saved_rather_than_compiled_again(contents: Contents, tmp_path: Path) -> None:
    loaded = runtime.load(write_bundle(contents, tmp_path / "net.ffebm"))
    with pytest.raises(OptionError, match=r"Call runtime.save\(path\)"):
        loaded.model.compile_to(tmp_path / "again.ffebm", X)


def test_inference_mode_is_no_hindrance(model: fc.FFEBM, tmp_path: Path) -> None:
    plain = model.compile_to(tmp_path / "plain.ffebm", X)
    with torch.inference_mode():
        inferring = model.compile_to(tmp_path / "inferring.ffebm", X.clone())
    assert plain.read_bytes() == inferring.read_bytes()


def test_a_model_on_a_chip_is_compiled_as_the_ideal_one(model: fc.FFEBM, tmp_path: Path) -> None:
    chip = model.lower(hardware="rram", chip_seed=1)
    one = chip.compile_to(tmp_path / "one.ffebm", X)
    two = model.compile_to(tmp_path / "two.ffebm", X)
    assert one.read_bytes() == two.read_bytes()
