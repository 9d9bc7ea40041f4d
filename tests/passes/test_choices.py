"""Names in digital= and analog= are held against the calls of the model: one that chooses nothing is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.cli import main

KEPT = "kept digital by digital="


class Net(nn.Module):
    """Every way in which a model may hold a layer, called or not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.alias = self.first
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.read, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.drop, self.same, self.extra = nn.Dropout(0.3), nn.Identity(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.first(x))
        for layer in self.layers:
            x = torch.relu(layer(x))
        x = self.drop(F.linear(x, self.read.weight))
        if self.training:
            x = self.extra(x)
        return self.attention(x[None], x[None], x[None])[0][0]


TRACERS: dict[str, dict[str, Any]] = {"torch.fx": {}, "torch.export": {"example_inputs": torch.ones(5, 4)}}

NOTHING: dict[str, tuple[str, str]] = {
    "layers": ("never called itself; what it holds is: 'layers.0', 'layers.1', 'layers.2'", "['layers.*']"),
    "read": ("never called: the model reads read.weight in 'linear'", "['linear']"),
    "unused": ("never called, in training or in evaluation", "Take it out"),
    "attention.out_proj": ("inside of 'attention' (MultiheadAttention), which is called as a whole", "'attention'"),
    "frist": ("has no layer 'frist'", 'Did you mean "first"'),
    "x*": ("'x*' matches no layer that the model calls", "Known names"),
}


@pytest.mark.parametrize("option", ["digital", "analog"])
@pytest.mark.parametrize("name", NOTHING)
def test_a_name_that_chooses_nothing_says_what_to_name(name: str, option: str) -> None:
    with pytest.raises(fc.OptionError) as raised:
        fc.explain(Net(), 2, **{option: [name]})
    (problem,) = raised.value.problems
    assert problem.where == f"option {option}"
    assert NOTHING[name][0] in problem.what
    assert NOTHING[name][1] in problem.remedy


def test_all_are_said_at_once() -> None:
    with pytest.raises(fc.OptionError) as raised:
        fc.convert(Net(), 2, digital=list(NOTHING), analog=["read", "nothing"])
    assert len(raised.value.problems) == len(NOTHING) + 2


class Exported(Net):
    """One that torch.fx can't trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[1] == 4 and len(x.shape) == 2 and bool(x.shape[0] > 0) else x + 1)


@pytest.mark.parametrize("name", NOTHING)
def test_names_are_held_against_exported_calls_too(name: str) -> None:
    if name.startswith("attention"):
        return  # torch.export opens it
    with pytest.raises(fc.OptionError) as raised:
        fc.explain(Exported(), 2, digital=[name], example_inputs=torch.ones(5, 4))
    assert NOTHING[name][0] in raised.value.problems[0].what


CHOOSES: dict[str, list[str]] = {
    "first": ["first"],
    "alias": ["first"],
    "layers.1": ["layers.1"],
    "layers.*": ["layers.0", "layers.1", "layers.2"],
    "linear": ["linear"],
    "drop": ["drop"],
    "same": [],
    "extra": ["extra"],
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CHOOSES)
def test_names_choose_their_calls_in_the_mode_that_makes_them(name: str, training: bool) -> None:
    report = fc.explain(Net().train(training), 2, digital=[name, name])  # twice means the same
    kept = [label for row in report.digital for label, _, reason in row.operations if reason == KEPT]
    only_in_training = name == "extra"
    assert kept == ([] if only_in_training and not training else CHOOSES[name])


def test_a_layer_and_one_around_it_cannot_both_be_named() -> None:
    with pytest.raises(fc.OptionError, match=r"inside of 'first' .*called as a whole since digital= names it"):
        fc.explain(Net(), 2, digital=["first", "first.0"])
    with pytest.raises(fc.OptionError, match=r"option analog: 'first\.0' is inside of 'first'"):
        fc.explain(Net(), 2, digital=["first"], analog=["alias.0"])
    with pytest.raises(fc.PartitionError, match=r"layer first\.0: is named by both"):
        fc.explain(Net(), 2, digital=["first.0"], analog=["first"])


def test_lists_that_are_none() -> None:
    with pytest.raises(fc.OptionError, match=r"Give a list: digital=\['first'\]"):
        fc.convert(Net(), 2, digital="first")
    with pytest.raises(fc.OptionError, match=r"holds 3[^\n]*int[\s\S]*holds ReLU\(\), a ReLU"):
        fc.convert(Net(), 2, digital=[3], analog=[nn.ReLU()])  # type: ignore[list-item]


@pytest.mark.parametrize("option", ["digital", "analog"])
def test_a_predicate_that_raises_is_named(option: str) -> None:
    with pytest.raises(
        fc.OptionError, match=f"option {option}: its predicate raised AttributeError for a Linear, 'first.0'"
    ):
        fc.convert(Net(), 2, **{option: lambda name, module: module.nothing})


class Counts(nn.Module):
    """Called as a whole, since a graph would count no calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.linear(x)


def test_what_makes_a_layer_whole_is_said() -> None:
    with pytest.raises(
        fc.OptionError, match=r"'0\.linear' is inside of '0' \(Counts\), .* whole: its forward writes .*calls"
    ):
        fc.explain(nn.Sequential(Counts(), nn.ReLU(), nn.Linear(4, 2)), 2, analog=["0.linear"])


class Untraceable(nn.Module):
    """Control flow on values, and results by name: as a whole it converts all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, times: int = 2, *, shift: float = 0.0) -> dict[str, Tensor]:
        for _ in range(times):
            x = self.linear(x) + shift if x.sum() > 0 else -self.linear(x)
        return {"result": x}


def test_the_model_itself_is_named_by_the_empty_name() -> None:
    torch.manual_seed(0)
    net, x = Untraceable(), torch.randn(3, 4)
    model = fc.convert(net, 2, digital=[""])
    assert [o.label for d in model.program.digital_blocks for o in d.origins] == ["Untraceable"]
    for call in ((x,), (x, 3)):
        assert torch.equal(model(*call, shift=1.0)["result"], net(*call, shift=1.0)["result"])
    model(x)["result"].sum().backward()
    net(x)["result"].sum().backward()
    assert torch.equal(model.get_parameter("linear.weight").grad, net.linear.weight.grad)
    assert model.state_dict().keys() == net.state_dict().keys()
    assert model.report().parameters.digital == 20


def test_no_layer_can_be_named_beside_the_model_itself() -> None:
    with pytest.raises(fc.OptionError, match="inside of the model itself"):
        fc.explain(Net(), 2, digital=["", "first"])


def test_the_command_line_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{__file__}:Net", "--digital", "unused", "--analog", "read"]) != 0
    said = capsys.readouterr().err
    assert "'unused' (Linear) is never called" in said
    assert "'read' (Linear) is never called: the model reads read.weight in 'linear'" in said
