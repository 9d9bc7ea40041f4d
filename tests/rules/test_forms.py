"""Operations and potentials from their names and options; what is not the library's own is told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from ffebm_compiler.ir import Kind, Operation, Potential
from ffebm_compiler.rules import FORMS, Form, Refusal, Role, Rule
from ffebm_compiler.rules.forms import fitting, plain, same
from ffebm_compiler.rules.option_types import NUMBER
from ffebm_compiler.rules.piecewise import RELU, clamp, leaky_relu
from ffebm_compiler.rules.weighted import LINEAR

CONV = dict(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
SOUND: list[tuple[str, dict[str, Any], int]] = [
    ("conv2d", CONV, 3),
    ("scale", dict(factor=2), 1),
    ("scale", dict(divisor=2.5), 1),
    ("reshape", dict(shape=(None, -1, 3)), 2),
    ("adaptive_avg_pool2d", dict(output_size=(None, 3)), 1),
    ("squeeze", dict(dim=(1, 2)), 1),
    ("batch_norm", dict(eps=1e-5), 5),
]
UNSOUND: list[tuple[str, dict[str, Any], int, str]] = [
    ("conv2d", {**CONV, "stride": (1 << 40, 1)}, 3, "stride = "),
    ("conv2d", {**CONV, "groups": True}, 3, "groups = True"),
    ("conv2d", {**CONV, "padding": "reflect"}, 3, "padding = 'reflect'"),
    ("conv2d", {**CONV, "evil": 1}, 3, "an option evil"),
    ("conv2d", CONV, 2, "reads 2 operands instead of 3"),
    ("scale", dict(factor=math.inf), 1, "factor = inf"),
    ("scale", dict(divisor=0), 1, "divisor = 0"),
    ("scale", {}, 1, "no option factor"),
    ("pad", dict(pad=(1,) * 99, value=0.0), 1, "pad = "),
    ("cat", dict(dim=0), 2, "dim = 0"),
    ("linear", dict(input=1), 3, "an option input"),
    ("reshape", dict(shape=(-2,)), 1, "shape = "),
    ("upsample", dict(mode="nearest2d", output_size=None, scale_factors=(math.nan,)), 1, "scale_factors = "),
]


def form(name: str, options: Mapping[str, Any]) -> Form[Operation]:
    spellings = FORMS.operation_named(name)
    assert spellings is not None
    return fitting(spellings, options)


@pytest.mark.parametrize(("name", "options", "operands"), SOUND)
def test_sound_options_are_taken(name: str, options: dict[str, Any], operands: int) -> None:
    given = (True,) * operands
    assert not [*form(name, options).problems(options, given)]
    assert dict(form(name, options)(options, given).options) == options


@pytest.mark.parametrize(("name", "options", "operands", "says"), UNSOUND)
def test_unsound_options_are_named(name: str, options: dict[str, Any], operands: int, says: str) -> None:
    (problem,) = form(name, options).problems(options, (True,) * operands)
    assert says in problem


@pytest.mark.parametrize("name", ["relu", "sigmoid", "selu", "hardsigmoid"])
def test_a_potential_without_choices_takes_its_own_options_alone(name: str) -> None:
    (spelling,) = FORMS.potential_named(name) or ()
    own = {n: kind for n, kind in spelling({}).options.items()}
    assert not [*spelling.problems(own)]
    assert [*spelling.problems({**own, "scale": 3.0})]


def test_what_computes_something_else_is_not_the_same() -> None:
    assert same(clamp(0.0, 1.0), clamp(0.0, 1.0))
    assert same(leaky_relu(0.1), leaky_relu(0.1))
    others: list[tuple[Potential, Potential]] = [
        (clamp(0.0, 1.0), clamp(0.0, 2.0)),
        (clamp(0.0, 1.0), clamp(0.0, 1.0, scale=2.0)),
        (RELU, replace(RELU, activation=torch.tanh)),
        (RELU, replace(RELU, energy=lambda s: s * s / 2)),
        (leaky_relu(0.1), replace(leaky_relu(0.1), options={})),
    ]
    for one, other in others:
        assert not same(one, other)
    (conv,) = FORMS.operation_named("conv2d") or ()
    made = conv(CONV, (True, True, True))
    assert same(made, conv(dict(CONV), (True, True, True)))
    assert not same(made, conv(CONV, (True, True, False)))  # it prints without a bias
    assert not same(made, replace(made, function=torch.conv1d))
    (pool,) = FORMS.operation_named("max_pool2d") or ()
    window = dict(kernel_size=2, stride=None, padding=0, dilation=1, ceil_mode=False)
    assert same(pool(window), pool(window))
    assert not same(pool(window), replace(pool(window), take=torch.gather))


def rule(kind: Kind, *forms: Form[Operation]) -> Rule:
    return Rule(kind.name, Role.COUPLING, lambda call: Refusal(""), "", forms={kind: forms})


def test_a_user_can_add_operations_of_their_own() -> None:
    mine = Operation(name="sum_of_squares", function=torch.square, linear=False)
    known = FORMS.extended([rule(Kind("sum_of_squares", __name__), *plain(mine))])
    (found,) = known.operation_named("sum_of_squares") or ()
    assert found({}) is mine
    assert known.operation_named("linear") is FORMS.operation_named("linear")
    assert FORMS.operation_named("sum_of_squares") is None
    wins = FORMS.extended([rule(Kind("linear", __name__), Form(lambda o, g: mine, {"k": NUMBER}))])
    (found,) = wins.operation_named("linear") or ()
    assert found({"k": 1.0}) is mine
    assert wins.operations[LINEAR] is FORMS.operations[LINEAR]


def test_a_name_in_a_file_is_that_of_an_operation_or_of_a_potential() -> None:
    assert FORMS.operation_named("relu") is None
    assert FORMS.potential_named("linear") is None


def test_the_names_of_bundles_stay() -> None:
    """What is written stays readable: a kind that is renamed here would lose every bundle that has it."""
    assert {kind.name for kind in FORMS.operations} >= {
        *("linear", "matmul", "batch_norm", "mean", "add", "shift", "reflect", "scale", "scale_by_weight", "pad"),
        *(f"{name}{d}d" for d in (1, 2, 3) for name in ("conv", "conv_transpose", "max_pool", "avg_pool")),
        *(f"adaptive_{name}_pool{d}d" for d in (1, 2, 3) for name in ("max", "avg")),
        *("flatten", "unflatten", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "cat", "contiguous"),
        *("upsample", "pixel_shuffle", "gelu", "silu", "mish", "hardswish", "sin", "cos"),
    }
    assert {kind.name for kind in FORMS.potentials} >= {
        *("identity", "relu", "relu6", "hardsigmoid", "clamp", "hardtanh", "leaky_relu", "sigmoid", "tanh"),
        *("selu", "elu", "celu", "softplus", "softmax"),
    }
