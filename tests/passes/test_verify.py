"""The printed energy and the solver are checked against each other at compile time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from energies import verified_in_float64
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.passes import Verification, verify
from ffebm_compiler.rules import RULES, Reading, Rule
from ffebm_compiler.rules.rule import Call, Refusal
from ffebm_compiler.rules.sigmoidal import TANH
from ffebm_compiler.solve import AUTOMATIC, EXPLICIT, BoundBlock, unit_gains
from ffebm_compiler.solve.derivatives.phases import Sweeping


class OptionalSecond(nn.Module):
    """A guess of one tensor leaves the second at its default, which this forward can't use."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, y: Tensor | int = 0) -> Tensor:
        return self.b(torch.relu(self.a(x))) + torch.erf(y)


def test_a_guessed_input_that_fails_in_the_users_code_says_nothing() -> None:
    model = fc.convert(OptionalSecond(), block_size=2)
    assert model(torch.randn(3, 4), torch.randn(3, 2)).shape == (3, 2)


def _wrong_rule(**wrong: object) -> Rule:
    """The rule of tanh with a wrong potential."""
    (tanh,) = (r for r in RULES if r.name == "tanh")

    def read(call: Call) -> Reading | Refusal:
        reading = tanh.read(call)
        assert isinstance(reading, Reading)
        assert reading.potential is not None
        return replace(reading, potential=replace(reading.potential, **wrong))

    return replace(tanh, read=read)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(energy=lambda s: s * s / 2),
        dict(activation=torch.sigmoid),
        dict(energy=lambda s: torch.special.xlogy(1 + s, 1 + s) / 2),
        dict(difference=lambda a, da: torch.sigmoid(a + da) - torch.sigmoid(a)),
        dict(tangent=lambda a, da: (1 - torch.tanh(a)) * da),
        dict(slope=0.5),
        dict(tangent=lambda a, da: da * torch.nan),
    ],
    ids=["energy", "activation", "half of the energy", "difference", "tangent", "slope", "no number"],
)
def test_a_rule_with_the_wrong_energy_is_found_at_compile_time(wrong: dict[str, object]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    with pytest.raises(fc.VerificationError, match=r"block1.*1|layer 1 \(Tanh\)"):
        fc.convert(net, block_size=2, rules=[_wrong_rule(**wrong)])


def test_the_residuals_are_those_of_float64() -> None:
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 5), nn.ELU(), nn.Linear(5, 2)),
        torch.randn(7, 4),
    )
    model = fc.convert(net, block_size=3)
    (view,) = model.blocks
    _, (found,) = model.equilibrium(x)
    weights = dict(model.named_parameters())
    for gains in (
        view.block and runner_of(model).gains(view.block).layer_weights,
        unit_gains(view.block).layer_weights,
    ):
        bound = BoundBlock(view.block, found.inputs, weights, gains)
        for how in (AUTOMATIC, EXPLICIT):
            record = verified_in_float64(bound, model.program.labels, 5000, how)
            assert record.converged
            assert record.gradient < 1e-8
            assert record.stationarity < 1e-12


@pytest.mark.parametrize("size", [1, 2])
def test_a_softplus_that_turns_straight_early_stays_digital(size: int) -> None:
    net, x = nn.Sequential(nn.Linear(4, 5), nn.Softplus(threshold=1.0), nn.Linear(5, 2)), torch.randn(7, 4)
    model = fc.convert(net, size)
    torch.testing.assert_close(model(x), net(x))
    assert "threshold=1.0" in str(model.report())


def test_a_residual_that_is_no_number_fails() -> None:
    fine = Verification("block1", 0.0, 0.0, True)
    assert fine.ok
    for name in ("stationarity", "gradient", "increments", "inverse"):
        assert not replace(fine, **{name: float("nan")}).ok
    assert replace(fine, gradient=float("nan"), converged=False).ok


SCALES = (1e-20, 1e-12, 1e-6, 1.0, 1e3)
SMOOTH = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "elu": nn.ELU, "selu": nn.SELU, "softplus": nn.Softplus}


def _scaled(activation: Callable[[], nn.Module], scale: float, bias: bool) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(6, 6, bias=bias), activation())]
    net = nn.Sequential(*layers, nn.Linear(6, 3, bias=bias))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_right_energy_is_right_at_every_scale_of_its_states(activation: str, scale: float, bias: bool) -> None:
    """Tiny states have lost their digits in ``log(1 + s)``; where they saturate, grad G is infinite."""
    net, x = _scaled(SMOOTH[activation], scale, bias), torch.randn(4, 6)
    assert fc.convert(net, 4, example_inputs=(x,))(x).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("excess", [1e-3, -1e-3])
def test_a_wrong_energy_is_wrong_at_every_scale_of_its_states(scale: float, excess: float) -> None:
    net, x = _scaled(nn.Tanh, scale, True), torch.randn(4, 6)
    wrong = _wrong_rule(energy=lambda s: (1 + excess) * TANH.energy(s))
    with pytest.raises(fc.VerificationError, match="inverse"):
        fc.convert(net, 4, example_inputs=(x,), rules=[wrong])


def test_an_energy_that_is_no_number_inside_its_domain_is_wrong() -> None:
    wrong = _wrong_rule(energy=lambda s: torch.where(s.abs() < 0.5, TANH.energy(s), torch.nan * s))
    with pytest.raises(fc.VerificationError):
        fc.convert(_scaled(nn.Tanh, 1.0, True), 4, rules=[wrong])


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1.0])
def test_tiny_states_that_are_not_those_of_the_energy_are_found(scale: float) -> None:
    """The solver's states are off by a thousandth: the rounding of grad G hides that in tiny states, sigma doesn't."""
    net, x = _scaled(nn.Tanh, scale, True).double(), torch.randn(4, 6, dtype=torch.float64)
    model = fc.convert(net, 4)
    _, (found,) = model.equilibrium(x)
    bound = BoundBlock(model.blocks[0].block, found.inputs, dict(model.named_parameters()), found_gains(model))
    states = {n: 1.001 * s for n, s in found.states.items()}
    assert verify(bound, found.states, model.program.labels, EXPLICIT, found.relaxation).ok
    with pytest.raises(fc.VerificationError, match=r"gradient 1\.0e-03"):
        verify(bound, states, model.program.labels, EXPLICIT, found.relaxation)


def found_gains(model: fc.FFEBM) -> dict[str, float]:
    gains = runner_of(model).gains(model.blocks[0].block)
    assert gains is not None
    return dict(gains.layer_weights)


def test_a_solver_of_other_equations_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derived code that pulls with half of the transpose."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    pull = Sweeping.pull
    monkeypatch.setattr(Sweeping, "pull", lambda *a: {n: v / 2 for n, v in pull(*a).items()})
    with pytest.raises(fc.VerificationError, match="stationarity"):
        fc.convert(net, 2)


@pytest.mark.parametrize("loop_gain", [0.01, 0.25])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_weights_beyond_a_narrow_type_are_no_disagreement(dtype: torch.dtype, loop_gain: float) -> None:
    """They are products over the layers of a block, and leave the range of float16 soon."""
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(16, 16), nn.Tanh())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=1.0)
    model = fc.convert(nn.Sequential(*layers, nn.Linear(16, 4)), 4, loop_gain=loop_gain, verify=False).to(dtype)
    (block,) = model.program.energy_blocks
    model(torch.randn(3, 16, dtype=dtype))
    assert model.verified[block.name].converged
    assert max(runner_of(model).gains(block).layer_weights.values()) > torch.finfo(torch.float16).max
