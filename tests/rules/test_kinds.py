"""A user's rule may call what it reads by any name: no table of the library takes it for the library's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.emulate.chip import mapped_terms
from ffebm_compiler.chip.emulate.transposes import _TRANSPOSES
from ffebm_compiler.chip.hardware.mapping import MAPPABLE
from ffebm_compiler.chip.resistive.magnitudes import _MAGNITUDES, is_resistive
from ffebm_compiler.chip.spice.activations import expression, known
from ffebm_compiler.ir import Operation, Potential
from ffebm_compiler.rules import REMAKES, RULES, Call, Reading, Role, Rule


def squared_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight.square(), bias)


class Squared(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return squared_linear(x, self.weight, self.bias)


def rule(name: str) -> Rule:
    def read(call: Call) -> Reading:
        operands = (call.as_operand(call.value()), call.weight("weight"), call.weight("bias"))
        return Reading(operands, Operation(name, squared_linear, weighted=True))

    return Rule("squared", Role.COUPLING, read, "", modules=(Squared,))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Squared(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    layers[3].running_var.fill_(0.25)  # a norm that is folded into a linear layer before it
    return layers.double().eval()


@pytest.mark.parametrize("name", ["squared", *sorted(REMAKES.operations)])
def test_the_operation_computes_what_its_function_does_whatever_its_name(name: str) -> None:
    model, x = fc.convert(net(), 3, norm="held", loop_gain=1e-9, rules=[rule(name)]), torch.randn(4, 6).double()
    assert torch.allclose(model(x), net()(x), rtol=1e-7)
    model(x).square().sum().backward()
    plain = net()
    plain(x).square().sum().backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-6, atol=1e-9)


def test_no_backend_takes_it_for_the_operation_of_that_name() -> None:
    model = fc.convert(net(), 3, norm="held", rules=[rule("linear")])
    (block,) = model.program.energy_blocks
    (own,) = [t for t in block.layers if t.operation.function is squared_linear]
    assert own.operation.name == "own linear"
    assert own not in mapped_terms(block)
    assert not is_resistive(own)


def test_an_operation_that_is_the_librarys_keeps_its_name() -> None:
    def read(call: Call) -> Reading:
        operands = (call.as_operand(call.value()), call.weight("weight"), call.weight("bias"))
        return Reading(operands, Operation("linear", F.linear, weighted=True, text="W {0}"))

    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight, self.bias)

    own = Rule("own", Role.COUPLING, read, "", modules=(Own,))
    model = fc.convert(nn.Sequential(Own(4, 4), nn.Tanh(), Own(4, 2)), 2, rules=[own])
    assert [t.operation.name for t in model.program.energy_blocks[0].layers] == ["linear", "linear"]


TANH = next(r for r in RULES if r.name == "tanh")


def potential_of(layer: nn.Module, own: Rule) -> Potential:
    model = fc.convert(nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2)), 2, rules=[own])
    return model.program.energy_blocks[0].states[0].potential


def test_no_circuit_is_written_for_a_potential_that_only_bears_the_name() -> None:
    def read(call: Call) -> Reading:
        given = TANH.read(call)
        assert isinstance(given, Reading)
        assert given.potential is not None
        return replace(given, potential=replace(given.potential, slope=2.0))

    own = replace(TANH, read=read, modules=(nn.Tanh,), functions=(), methods=())
    assert expression(potential_of(nn.Tanh(), TANH), "a") == "tanh(a)"
    found = potential_of(nn.Tanh(), own)
    assert found.name == "own tanh"
    assert expression(found, "a") is None


def test_every_name_that_a_table_knows_is_one_that_is_told_apart() -> None:
    for table in (_TRANSPOSES, MAPPABLE, _MAGNITUDES):
        assert set(table) <= set(REMAKES.operations)
    assert set(known()) <= set(REMAKES.potentials)
