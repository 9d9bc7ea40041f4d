"""Rules of the user's own: for a module class, whose forward is not traced through; and what matched nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import Operation
from ffebm_compiler.rules import RULES, Call, Reading, Role, Rule

TANH = next(rule for rule in RULES if rule.name == "tanh")


class OwnTanh(nn.Module):
    """No operation in it has an energy."""

    def forward(self, a: Tensor) -> Tensor:
        return torch.sinh(a) / torch.cosh(a)


class Another(OwnTanh):
    """Computes something else than its base."""

    def forward(self, a: Tensor) -> Tensor:
        return -super().forward(a)


def squared_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight.square(), bias)


class Squared(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return squared_linear(x, self.weight, self.bias)


def paired(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return a @ weight + b


class Pair(nn.Module):
    """A layer of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return paired(left, right, self.weight)


def read_squared(call: Call) -> Reading:
    operands = (call.as_operand(call.value()), call.weight("weight"), call.weight("bias"))
    return Reading(operands, Operation("squared", squared_linear, weighted=True))


def read_pair(call: Call) -> Reading:
    operands = (*(call.as_operand(call.value(name)) for name in ("left", "right")), call.weight("weight"))
    return Reading(operands, Operation("pair", paired, weighted=True))


OWN = (
    replace(TANH, name="own tanh", modules=(OwnTanh,), functions=(), methods=(), examples=()),
    Rule("squared", Role.COUPLING, read_squared, "", modules=(Squared,)),
    Rule("pair", Role.COUPLING, read_pair, "", modules=(Pair,)),
)


class Net(nn.Module):
    """``exported``: with control flow that torch.fx can't follow."""

    def __init__(self, exported: bool = False) -> None:
        super().__init__()
        self.first, self.tanh, self.squared = nn.Linear(6, 8), OwnTanh(), Squared(8, 8)
        self.pair, self.last, self.exported = Pair(), nn.Linear(8, 3), exported

    def forward(self, x: Tensor) -> Tensor:
        if self.exported and x.shape[1] > 6:
            x = x[:, :6]
        h = self.tanh(self.first(x))
        return self.last(self.tanh(self.pair(self.tanh(self.squared(h)), h)))


def made(exported: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Net(exported).double(), torch.randn(4, 6, dtype=torch.float64)


@pytest.mark.parametrize("exported", [False, True], ids=["torch.fx", "torch.export"])
def test_layers_of_the_users_classes_are_in_one_block(exported: bool) -> None:
    net, x = made(exported)
    model = fc.convert(net, 4, rules=OWN, example_inputs=x, loop_gain=1e-9)
    assert model.report().tracer == ("torch.export" if exported else "torch.fx")
    (block,) = model.blocks
    assert block.layers == ("first", "squared", "pair", "last")
    assert block.states == ("tanh", "tanh@2", "tanh@3", "last")
    assert torch.allclose(model(x), net(x), rtol=1e-8)
    assert "forward" not in vars(model.get_submodule("tanh"))  # nothing of the export is left
    for m in (model, net):
        m(x).square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("exported", [False, True], ids=["torch.fx", "torch.export"])
def test_without_its_rule_a_class_is_traced_through(exported: bool) -> None:
    net, x = made(exported)
    report = fc.explain(net, 4, example_inputs=x)
    assert {"sinh", "cosh"} <= {kind for row in report.digital for _, kind, _ in row.operations}


def test_the_model_itself_may_be_of_such_a_class() -> None:
    (block,) = fc.convert(Squared(4, 3), 2, rules=OWN[1:2]).blocks
    assert block.layers == ("Squared",)


def test_a_subclass_with_a_forward_of_its_own_is_another_class() -> None:
    net = nn.Sequential(nn.Linear(4, 4), OwnTanh(), nn.Linear(4, 4), Another(), nn.Linear(4, 2))
    model = fc.convert(net, 4, rules=OWN[:1])
    assert [s for b in model.blocks for s in b.states].count("1") == 1
    assert any("3." in o.label for d in model.program.digital_blocks for o in d.origins)


def test_a_value_that_a_rule_does_not_read_keeps_the_layer_digital() -> None:
    forgets = replace(
        OWN[2],
        read=lambda call: Reading(
            (call.as_operand(call.value()), call.weight("weight")), Operation("pair", torch.matmul, weighted=True)
        ),
    )
    net, x = made(False)
    model = fc.convert(net, 4, rules=[*OWN[:2], forgets])
    assert any("does not read tanh, which it is given" in reason for reason in model.report().reasons)
    assert torch.allclose(fc.convert(net, 1, rules=[*OWN[:2], forgets])(x), net(x))


# --- rules that matched nothing -----------------------------------------------------------------------------


def said(net: nn.Module, *rules: Rule, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fc.convert(net, 2, rules=rules, **options)
    return [str(w.message) for w in caught if w.category is fc.ConversionWarning]


def test_a_rule_that_matched_says_nothing() -> None:
    assert said(made(False)[0], *OWN) == []


class InOneMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.tanh, self.last = nn.Linear(4, 4), OwnTanh(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return self.last(self.tanh(h) if self.training else torch.relu(h))


@pytest.mark.parametrize("training", [True, False])
def test_a_rule_may_match_in_one_mode(training: bool) -> None:
    assert said(InOneMode().train(training), OWN[0]) == []


def nothing(name: str = "mine", **matches: Any) -> Rule:
    return Rule(name, Role.COUPLING, read_squared, "", **matches)


class Holds(nn.Module):
    """A layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.squared, self.last = Squared(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(F.linear(x, self.squared.weight)))


def test_one_that_matched_nothing_is_named_once_with_what_kept_it() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), Another(), nn.Linear(4, 2))
    (text,) = said(plain, nothing(modules=(nn.Bilinear,), methods=("frobnicate",)))
    assert "The rule 'mine' for Bilinear, .frobnicate() matched no call of the model" in text
    (text,) = said(plain, replace(OWN[0], name="own tanh"))
    assert "Another '1' has a forward of its own" in text
    (text,) = said(Holds(), OWN[1])
    assert "'squared' is a Squared, but is never called on its own" in text
    (text,) = said(nn.Sequential(Squared(4, 4)), nothing(functions=(squared_linear,)))
    assert "squared_linear() matched no call" in text
    assert "torch.fx.wrap" in text


def test_under_export_it_says_that_functions_are_opened() -> None:
    net, x = made(True)
    (text,) = said(net, *OWN, nothing(functions=(squared_linear,)), example_inputs=x)
    assert "torch.export opens functions to operations of torch.ops.aten" in text


def test_explain_says_so_too() -> None:
    with pytest.warns(fc.ConversionWarning, match="'mine' for Bilinear matched no call"):
        fc.explain(nn.Sequential(nn.Linear(4, 2)), 2, rules=[nothing(modules=(nn.Bilinear,))])


def test_spellings_that_are_none_are_named() -> None:
    rules = [nothing(modules=OwnTanh), nothing("other", functions=("tanh",), methods="tanh")]
    with pytest.raises(fc.OptionError) as raised:
        fc.convert(nn.Linear(2, 2), 1, rules=rules)
    assert [p.where for p in raised.value.problems] == [
        "option rules, rule 'mine'",
        *["option rules, rule 'other'"] * 2,
    ]
    assert "modules=(MyLayer,)" in raised.value.problems[0].remedy
