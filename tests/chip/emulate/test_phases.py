"""Phases on a chip: equilibria of the emulated equations, noise held in each and new in the next."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.emulate import Phases, Sample
from ffebm_compiler.estimate import FreePhase
from ffebm_compiler.ffebm import AnalogFFEBM
from ffebm_compiler.train import BlockCall

X = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
NOISY = fc.Hardware(
    read_noise=0.05, temperature=300.0, capacitance=1e-16, offset=0.01, gain_mismatch=0.05, reverse_gain_error=0.1,
    programming_error=0.02, bidirectional=False,
)  # fmt: skip


def call_of(hardware: fc.Hardware) -> tuple[AnalogFFEBM, BlockCall, Phases]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    model = fc.convert(net, block_size=3, tolerance=1e-13, max_sweeps=2000).lower(hardware=hardware).calibrate(X)
    (block,) = model.program.energy_blocks
    call = model.block_call(block, model.bind_inputs((X,), {}))
    return model, call, call.estimator.phases  # type: ignore[attr-defined,return-value]


def settled(run: Phases, call: BlockCall, sample: Sample) -> FreePhase:
    found = run.free(call.bound, call.tolerance, sample.phase())
    assert found.relaxation.converged
    return FreePhase(call.bound, found.states, found.relaxation, call.tolerance)


def sample(rho: float = 0.0, seed: int = 0) -> Sample:
    return Sample(torch.Generator().manual_seed(seed), rho)


def test_with_noise_held_a_phase_is_the_fixed_point_of_its_own_equations() -> None:
    """``s = clip(sigma(gain (a + offset + n)))`` with a of the noisy arrays: evaluated once more, nothing moves."""
    _, call, run = call_of(NOISY)
    reading = sample().phase()
    states = run.free(call.bound, call.tolerance, reading).states
    bound = run.emulated(call.bound.detached(), reading)
    a = bound.stationarity(states)
    for s in bound.block.states:
        torch.testing.assert_close(s.potential.activation(a[s.name]), states[s.name], rtol=1e-9, atol=1e-11)


def test_a_nudged_phase_is_the_fixed_point_of_the_nudged_equations() -> None:
    _, call, run = call_of(NOISY)
    presentation = sample(0.5)
    free, reading = settled(run, call, presentation), presentation.phase()
    errors = {n: torch.randn_like(free.states[n]) for n in call.block.outputs}
    beta = 0.2
    states, record = run.nudged(free, errors, beta, reading)
    assert record.converged
    bound = run.emulated(call.bound.detached(), reading)
    a = bound.stationarity(states)
    for s in bound.block.states:
        pull = beta / call.layer_weights[s.name] * errors.get(s.name, torch.zeros(()))
        torch.testing.assert_close(s.potential.activation(a[s.name] - pull), states[s.name], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.7, 1.0])
def test_noise_changes_from_phase_to_phase_in_part(rho: float) -> None:
    """Without a nudge, phases of one sample differ by what of their read noise they do not share; thermal noise is
    shared by none.
    """
    _, call, run = call_of(dataclasses.replace(NOISY, temperature=0.0))
    moved, apart = [], []
    for seed in range(30):
        presentation = sample(rho, seed)
        first = run.free(call.bound, call.tolerance, presentation.phase()).states
        second = run.free(call.bound, call.tolerance, presentation.phase()).states
        other = run.free(call.bound, call.tolerance, sample(rho, seed + 1000).phase()).states
        moved.append(max(float((first[n] - second[n]).abs().max()) for n in first))
        apart.append(max(float((first[n] - other[n]).abs().max()) for n in first))
    ratio = sum(moved) / sum(apart)
    assert ratio == pytest.approx((1 - rho) ** 0.5, abs=0.2)  # the deviation of a difference is sqrt(2 (1 - rho))
    assert (ratio == 0) == (rho == 1)


def test_a_second_array_has_a_part_in_the_equilibrium() -> None:
    """Only the feedback passes through it: a block without feedback does not know of it."""
    one_way = fc.Hardware(programming_error=0.1, bidirectional=False)
    both = dataclasses.replace(one_way, bidirectional=True)
    states = [
        run.free(call.bound, call.tolerance, sample().phase()).states for _, call, run in map(call_of, (one_way, both))
    ]
    assert not torch.allclose(states[0]["_1"], states[1]["_1"], rtol=1e-6)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    outputs: list[Tensor] = [fc.convert(net, block_size=1).lower(hardware=h)(X) for h in (one_way, both)]
    torch.testing.assert_close(outputs[0], outputs[1])


def test_phases_leave_what_they_are_given_alone() -> None:
    _, call, run = call_of(NOISY)
    presentation = sample()
    free = settled(run, call, presentation)
    before = {n: s.clone() for n, s in free.states.items()}
    run.nudged(free, {n: torch.ones_like(free.states[n]) for n in call.block.outputs}, 0.5, presentation.phase())
    assert all(torch.equal(before[n], free.states[n]) for n in before)
