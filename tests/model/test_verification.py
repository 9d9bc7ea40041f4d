"""The compiled program, run without feedback, is the model: a rule that reads an operation wrongly is caught."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import Operation
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.rules import Call, Reading, Role, Rule
from ffebm_compiler.solve.derivatives.phases import ExplicitLinearisation


def _forgets_the_stride(call: Call) -> Reading:
    operation = Operation(name="conv2d", function=lambda x, w, b: F.conv2d(x, w, b)[..., :4, :4], weighted=True)
    return Reading((call.as_operand(call.value()), call.weight("weight"), call.weight("bias")), operation)


WRONG = Rule(
    "conv2d", Role.COUPLING, _forgets_the_stride, "a convolution that forgets its stride", modules=(nn.Conv2d,)
)


def strided() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))


def test_a_wrong_operation_is_caught() -> None:
    with pytest.raises(
        fc.VerificationError, match=r"layer 0 \(Conv2d\): is the first whose value differs from the model's own"
    ):
        fc.convert(strided(), 2, rules=[WRONG], example_inputs=torch.randn(2, 2, 9, 9))


def _reads_the_first_sample(call: Call) -> Reading:
    operation = Operation(
        name="linear", function=lambda x, w, b: F.linear(x[:1], w, b).expand(len(x), -1), weighted=True
    )
    return Reading((call.as_operand(call.value()), call.weight("weight"), call.weight("bias")), operation)


def test_what_couples_samples_is_caught() -> None:
    wrong = Rule("linear", Role.COUPLING, _reads_the_first_sample, "one sample for all", modules=(nn.Linear,))
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(fc.VerificationError, match=r"layer 0 \(Linear\): is the first whose value differs"):
        fc.convert(net, 1, rules=[wrong], example_inputs=torch.randn(4, 4))


def test_the_right_one_passes() -> None:
    fc.convert(strided(), 2, example_inputs=torch.randn(2, 2, 9, 9))


class Aliased(nn.Module):
    """An in-place activation whose operand is read again: as written, both names are the activation's result."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return self.act(h) + h


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = Aliased(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


@pytest.mark.parametrize("digital", [(), ("inner",), ("inner.act",)])
def test_in_place_layers_keep_their_meaning(digital: tuple[str, ...]) -> None:
    """Also inside a container that is called as a whole, where they stay in place."""
    torch.manual_seed(0)
    net, x = Outer(), torch.randn(5, 4)
    model = fc.convert(net, 1, digital=digital)
    assert torch.allclose(model(x), net(x))
    assert net.inner.act.inplace
    assert model.to_feedforward().inner.act.inplace


class Flagged(nn.Module):
    """Two programs: functional dropout that follows the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.b(F.dropout(torch.relu(self.a(x + y)), 0.5, self.training))


def test_each_program_is_verified_at_first_use_also_by_the_generated_step() -> None:
    model = fc.convert(Flagged(), 2)
    assert not model.verified  # no input of two tensors can be guessed
    model.training_step((torch.randn(3, 4), torch.randn(3, 4)), torch.zeros(3, 2), F.mse_loss)
    assert set(model.verified) == {b.name for b in model.blocks}
    model.eval()
    model(torch.randn(3, 4), torch.randn(3, 4))
    assert set(model.verified) == {b.name for b in model.blocks}
    assert "verified for" in str(model.report())


class TwoWays(nn.Module):
    """Another activation in each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.tanh(h) if self.training else torch.relu(h))


def test_a_program_of_its_own_is_verified_on_its_own() -> None:
    model = fc.convert(TwoWays(), 2)
    (training,) = model.verified.values()
    (evaluation,) = model.eval().verified.values()
    assert training is not evaluation


def test_blocks_are_told_apart_by_what_they_compute_not_by_names() -> None:
    """A block with every name the same, whose first operation computes something else, is not verified by the check of
    this one.
    """
    model = fc.convert(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), 2).eval()
    model(torch.randn(3, 4))
    block = model.program.energy_blocks[0]
    first = block.states[0]
    (term,) = first.drive.terms
    operation = replace(term.operation, function=lambda x, weight, bias: 2 * F.linear(x, weight, bias))
    drive = replace(first.drive, terms=(replace(term, operation=operation),))
    other = replace(block, states=(replace(first, drive=drive), *block.states[1:]))
    assert other.key == block.key
    assert runner_of(model).checks.of_block(block) is model.verified[block.name]
    assert runner_of(model).checks.of_block(other) is None


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("push", "its coupling and the transpose of it disagree"),
        ("pull", "gradient that differs"),
        ("gradient", "gradient that differs"),
    ],
)
def test_derived_code_that_is_wrong_is_found(part: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the derivatives that relaxations and contrasts run, off by a tenth."""
    exact = getattr(ExplicitLinearisation, part)
    monkeypatch.setattr(ExplicitLinearisation, part, lambda *given: _scaled(exact(*given)))
    with pytest.raises(fc.VerificationError, match=says):
        fc.convert(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), 2)


def _scaled(found: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda v: 1.1 * v if isinstance(v, Tensor) else v, found)


def test_a_check_can_be_switched_off() -> None:
    x = torch.randn(2, 2, 9, 9)
    wrong = fc.convert(strided(), 2, rules=[WRONG], example_inputs=x, verify=False)
    assert wrong(x).shape == (2, 2)
    assert not runner_of(wrong).checks._compared


def test_the_first_input_of_each_mode_is_used_once() -> None:
    """An input that was not known at conversion; the next ones of that mode are not looked at."""
    model = fc.convert(Flagged(), 2)
    calls: list[bool] = []

    def note(module: nn.Module, args: Any) -> None:
        if module is model.network:
            calls.append(model.training)

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        for _ in range(3):
            model(torch.randn(3, 4), torch.randn(3, 4))
        model.eval()
        for _ in range(3):
            model(torch.randn(3, 4), torch.randn(3, 4))
    finally:
        handle.remove()
    assert calls == [True, False]
