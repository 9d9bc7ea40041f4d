"""Neuron circuits and amplifiers: the formula, its limits, and what mismatch leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.emulate import Reading, Sample
from ffebm_compiler.chip.emulate.neurons import Amplifier, Neurons
from ffebm_compiler.ir import Potential


def potential(activation: nn.Module) -> Potential:
    model = fc.convert(nn.Sequential(nn.Linear(3, 3), activation, nn.Linear(3, 2)), block_size=2)
    return model.program.energy_blocks[0].states[0].potential


ACTIVATIONS = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "clamp": nn.Hardtanh(-0.5, 1.0)}
EXACT = {
    "relu": lambda v: max(v, 0.0),
    "tanh": math.tanh,
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "clamp": lambda v: min(max(v, -0.5), 1.0),
}
POTENTIALS = {name: potential(module) for name, module in ACTIVATIONS.items()}
number = st.floats(-3, 3)


def reading(seed: int = 0) -> Reading:
    return Sample(torch.Generator().manual_seed(seed)).phase()


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.sampled_from(sorted(EXACT)),
    number,
    st.floats(-0.3, 0.3),
    st.floats(0.7, 1.3),
    st.floats(1, 2),
    st.floats(0.2, 5),
)
def test_formula(name: str, a: float, offset: float, gain: float, conductance: float, limit: float) -> None:
    neurons = Neurons("s", vector(offset), vector(gain), vector(conductance), limit)
    expected = min(max(EXACT[name](gain * (a / conductance + offset)), -limit), limit)
    found = neurons.potential(POTENTIALS[name], reading()).activation(vector(a))
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", sorted(EXACT))
def test_bounds_of_an_activation_are_not_disturbed(name: str) -> None:
    """A clamp's reference is a voltage of its own: mismatch moves where it is reached, not where it is."""
    p = POTENTIALS[name]
    neurons = Neurons("s", vector(0.2, -0.2), vector(1.1, 0.9), noise=0.1)
    s = neurons.potential(p, reading()).activation(torch.linspace(-50, 50, 101, dtype=torch.float64)[:, None])
    assert float(s.min()) >= p.lower
    assert float(s.max()) <= p.upper
    if name == "clamp":
        assert (float(s.min()), float(s.max())) == (-0.5, 1.0)


def test_an_ideal_circuit_is_the_activation_itself() -> None:
    assert Neurons("s").potential(POTENTIALS["tanh"], reading()) is POTENTIALS["tanh"]


def test_a_supply_limit_alone_counts_what_it_holds() -> None:
    neurons = Neurons("s", limit=0.5)
    s = neurons.potential(POTENTIALS["relu"], reading()).activation(vector(-1, 0.2, 0.5, 3))
    assert s.tolist() == [0, 0.2, 0.5, 0.5]
    assert int(neurons.saturated(s)) == 2


def test_thermal_noise_is_normal_held_and_left_out_without_a_reading() -> None:
    n = 100_000
    neurons = Neurons("s", noise=0.3)
    zeros, held = torch.zeros(n, dtype=torch.float64), reading()
    u = neurons.input(zeros, held)
    assert float(u.std()) == pytest.approx(0.3, rel=5 / math.sqrt(2 * n))
    torch.testing.assert_close(neurons.input(zeros + 1, held), u + 1)
    assert not torch.equal(neurons.input(zeros, reading(1)), u)
    assert torch.equal(neurons.input(zeros), zeros)


def test_an_amplifier_errs_in_feedback_only() -> None:
    gain, s, e = vector(1.1, 0.8), torch.randn(3, 2, dtype=torch.float64).requires_grad_(), vector(2, 3)
    out = Amplifier(gain)(s)
    assert torch.equal(out, s)
    (back,) = torch.autograd.grad(out, s, e.expand(3, 2))
    torch.testing.assert_close(back, (gain * e).expand(3, 2))
