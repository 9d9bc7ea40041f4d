"""A user's rule may call what it reads by any name: no table of the library takes it for the library's own."""

from __future__ import annotations

import ast
import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.emulate.chip import mapped_terms
from ffebm_compiler.chip.emulate.transposes import _TRANSPOSES
from ffebm_compiler.chip.hardware.mapping import _ARRAYS, BIAS
from ffebm_compiler.chip.resistive.magnitudes import _MAGNITUDES, is_resistive
from ffebm_compiler.chip.spice.activations import _EXPRESSIONS, expression
from ffebm_compiler.ir import OTHER, Array, Kind, Operation, Potential
from ffebm_compiler.rules import FORMS, RULES, Call, Reading, Role, Rule
from ffebm_compiler.rules.sigmoidal import SIGMOID
from ffebm_compiler.rules.weighted import LINEAR


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squared", *sorted(kind.name for kind in FORMS.operations)])
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


@pytest.mark.parametrize("name", ["linear", "mine"])
def test_an_operation_that_is_the_librarys_is_of_its_kind(name: str) -> None:
    def read(call: Call) -> Reading:
        operands = (call.as_operand(call.value()), call.weight("weight"), call.weight("bias"))
        return Reading(operands, Operation(name, F.linear, weighted=True, text="W {0}"))

    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight, self.bias)

    own = Rule("own", Role.COUPLING, read, "", modules=(Own,))
    model = fc.convert(nn.Sequential(Own(4, 4), nn.Tanh(), Own(4, 2)), 2, rules=[own])
    assert [t.operation.name for t in model.program.energy_blocks[0].layers] == [name] * 2
    assert all(t.operation.kind is LINEAR for t in model.program.energy_blocks[0].layers)
    assert mapped_terms(model.program.energy_blocks[0]) == model.program.energy_blocks[0].layers


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


def test_every_kind_that_a_table_knows_is_one_of_the_rules() -> None:
    for table in (_TRANSPOSES, _ARRAYS, _MAGNITUDES):
        assert set(table) - {BIAS} <= set(FORMS.operations)
    assert set(_EXPRESSIONS) <= set(FORMS.potentials)


# --- kinds of the user's own ------------------------------------------------------------------------------


MINE = Kind(
    "linear",
    __name__,
    array=Array(lambda weight, o: weight.square().T[None], lambda matrix, shape, o: matrix[0].T.sqrt()),
    magnitude=lambda operation, read: operation(*read),
)


def own_linear(**options: Any) -> Operation:
    return Operation("linear", squared_linear, weighted=True, **options)


def read_by(operation: Operation) -> Rule:
    def read(call: Call) -> Reading:
        operands = (call.as_operand(call.value()), call.weight("weight"), call.weight("bias"))
        return Reading(operands, operation)

    return Rule("squared", Role.COUPLING, read, "", modules=(Squared,))


@pytest.mark.parametrize(
    ("given", "kind"), [(own_linear(), OTHER), (own_linear(kind=LINEAR), OTHER), (own_linear(kind=MINE), MINE)]
)
def test_a_name_of_ours_makes_no_kind_of_ours(given: Operation, kind: Kind) -> None:
    model = fc.convert(net(), 3, norm="held", rules=[read_by(given)])
    (own,) = [t for t in model.program.energy_blocks[0].layers if t.operation.function is squared_linear]
    assert own.operation.kind is kind
    assert is_resistive(own) == (own in mapped_terms(model.program.energy_blocks[0])) == (kind is MINE)


def test_a_crossbar_holds_the_matrix_that_a_kind_brings() -> None:
    model, x = fc.convert(net(), 3, norm="held", rules=[read_by(own_linear(kind=MINE))]), torch.randn(4, 6).double()
    chip = model.lower("analog-emu", hardware="ideal")
    assert torch.allclose(chip(x), model(x), rtol=1e-4, atol=1e-6)
    assert chip.chip.devices["2.weight"].layout.kind is MINE


def test_a_potential_brings_its_own_netlist() -> None:
    own = replace(SIGMOID, kind=Kind("mine", __name__, expression=lambda a, options: f"mine({a})"))
    assert expression(own, "a") == "mine(a)"
    assert expression(replace(SIGMOID, kind=Kind("sigmoid", __name__)), "a") is None


def test_a_kind_is_pickled_as_the_object_of_its_module() -> None:
    for kind in (*FORMS.operations, *FORMS.potentials, BIAS, OTHER):
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert copy.deepcopy(kind) is kind
    with pytest.raises(fc.FFEBMError, match="LINEAR = Kind\\('linear', __name__\\)"):
        pickle.dumps(Kind("linear", LINEAR.module))


# --- no code outside of the rules goes by names -----------------------------------------------------------

PACKAGE = Path(fc.__file__).parent
THINGS = {"operation", "potential", "kind"}
FORMATS = {("chip/hardware/mapping.py", "kind_on_arrays")}
"""Where the names in a file become kinds; those in bundles do so in rules/registry.py."""


def sources() -> list[Path]:
    folders = (PACKAGE, *(p for p in PACKAGE.iterdir() if p.is_symlink()))  # which rglob does not follow
    files = [p for folder in folders for p in sorted(folder.rglob("*.py"))]
    found = [p for p in files if "rules" not in p.relative_to(PACKAGE).parts[:1]]
    assert {p.parent.name for p in found} >= {"passes", "backends", "ir", "solve", "spice"}
    return found


def is_a_name(node: ast.AST) -> bool:
    """``operation.name``, ``state.potential.name``, ``kind.name``."""
    if not (isinstance(node, ast.Attribute) and node.attr == "name"):
        return False
    of = node.value
    return (isinstance(of, ast.Name) and of.id in THINGS) or (isinstance(of, ast.Attribute) and of.attr in THINGS)


def decides(node: ast.AST) -> bool:
    """Whether a node compares such a name, looks it up, or asks one of its methods."""
    if isinstance(node, ast.Compare):
        return any(map(is_a_name, (node.left, *node.comparators)))
    if isinstance(node, ast.Subscript):
        return is_a_name(node.slice)
    if isinstance(node, ast.Match):
        return is_a_name(node.subject)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return any(map(is_a_name, (node.func.value, *node.args)))
    return False


def decisions(tree: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """(function, what) of each such decision."""
    for node in ast.iter_child_nodes(tree):
        if decides(node):
            yield function, ast.unparse(node)
        yield from decisions(node, node.name if isinstance(node, ast.FunctionDef) else function)


@pytest.mark.slow
def test_nobody_but_rules_decides_by_a_name() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), function): what
        for path in sources()
        for function, what in decisions(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert {where: what for where, what in found.items() if where not in FORMATS} == {}
    assert found.keys() == FORMATS


@pytest.mark.parametrize(
    "code",
    ["operation.name == 'linear'", "TABLE[term.operation.name]", "TABLE.get(s.potential.name)", "kind.name in KNOWN"]
    + ["operation.name.startswith('conv')"],
)
def test_a_decision_by_a_name_is_seen(code: str) -> None:
    assert [*decisions(ast.parse(f"def f():\n    return {code}"))]
