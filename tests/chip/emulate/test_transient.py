"""How a block settles in time, against scipy's integration of the circuit's equations, and the laws of thermal
noise.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from emulation_oracle import Settling, array
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.emulate import Sample
from ffebm_compiler.chip.emulate.neurons import Neurons
from ffebm_compiler.chip.emulate.transient import Transient
from ffebm_compiler.estimate import FreePhase
from ffebm_compiler.ffebm import AnalogFFEBM
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import BoundBlock
from ffebm_compiler.train import BlockCall, free_phase

TAU = 1e-7
HOPFIELD = fc.Hardware(
    offset=0.02, gain_mismatch=0.05, reverse_gain_error=0.1, programming_error=0.02, time_constant=TAU
)
RESISTIVE = fc.Hardware(
    physics="resistive", reverse_gain_error=0.1, programming_error=0.02, g_min=2e-6, time_constant=TAU
)
X = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network(smooth: bool) -> nn.Module:
    act = (nn.Tanh, nn.Sigmoid) if smooth else (nn.ReLU, lambda: nn.Hardtanh(-0.1, 0.3))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 7), act[0](), nn.Linear(7, 6), act[1](), nn.Linear(6, 3)).double()


def lowered(hardware: fc.Hardware, smooth: bool, settling: float | None = None) -> AnalogFFEBM:
    model = fc.convert(network(smooth), block_size=3, loop_gain=0.8, tolerance=1e-14, max_sweeps=2000)
    seconds = None if settling is None else settling * TAU
    return model.lower(hardware=dataclasses.replace(hardware, settling_time=seconds)).calibrate(X)


def transient(model: AnalogFFEBM) -> tuple[Transient, BlockCall]:
    call = model.block_call(model.program.energy_blocks[0], model.bind_inputs((X,), {}))
    reading = Sample(torch.Generator().manual_seed(0)).phase()
    return call.estimator.phases.transient(call.bound, reading, {}), call  # type: ignore[attr-defined]


def distance(states: dict[str, Tensor], expected: dict) -> float:
    return max(float(abs(array(s).ravel() - expected[n]).max()) for n, s in states.items())


CASES = [(HOPFIELD, True), (HOPFIELD, False), (RESISTIVE, False)]
NAMES = ["Hopfield, smooth", "Hopfield, clipped", "resistive"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
@pytest.mark.parametrize("duration", [0.5, 2.0, 5.0])
@pytest.mark.parametrize(("hardware", "smooth"), CASES, ids=NAMES)
def test_states_after_a_settling_time(hardware: fc.Hardware, smooth: bool, duration: float) -> None:
    model = lowered(hardware, smooth, duration)
    _, (block,) = model.equilibrium(X)
    (circuit,) = model.circuits(X)
    assert distance(dict(block.states), Settling(circuit).course(duration)) < 4e-3


@pytest.mark.slow
@pytest.mark.parametrize(("hardware", "smooth"), CASES, ids=NAMES)
def test_order_of_convergence(hardware: fc.Hardware, smooth: bool) -> None:
    """Second order where currents are smooth: half the step, a quarter of the error. At diodes at least first."""
    model = lowered(hardware, smooth)
    run, call = transient(model)
    start = run.at_rest(call.bound.feedforward())
    reference = run.outputs(run.run(start, 2.0, 1 / 512)[0])

    def error(step: float) -> float:
        states = run.outputs(run.run(start, 2.0, step)[0])
        return max(float((states[n] - reference[n]).abs().max()) for n in states)

    ratios = [error(h) / error(h / 2) for h in (0.25, 0.125)]
    assert all(r > (3.5 if smooth else 1.8) for r in ratios), ratios
    (circuit,) = model.circuits(X)
    assert distance(reference, Settling(circuit).course(2.0)) < (1e-5 if smooth else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("hardware", "smooth"), CASES, ids=NAMES)
def test_a_long_transient_ends_at_the_equilibrium(hardware: fc.Hardware, smooth: bool) -> None:
    waiting, timed = lowered(hardware, smooth), lowered(hardware, smooth, 60.0)
    (_, (a,)), (_, (b,)) = waiting.equilibrium(X), timed.equilibrium(X)
    assert b.relaxation.converged
    for n in a.states:
        torch.testing.assert_close(a.states[n], b.states[n], rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
@pytest.mark.parametrize(("hardware", "smooth"), CASES, ids=NAMES)
def test_a_nudged_transient_starts_from_the_settled_free_state(hardware: fc.Hardware, smooth: bool) -> None:
    """Integrated from the free node voltages, with the nudge switched on at once."""
    patient = lowered(hardware, smooth, 60.0)
    (block,) = patient.program.energy_blocks
    call = patient.block_call(block, patient.bind_inputs((X,), {}))
    with torch.no_grad():
        free: FreePhase = free_phase(call)
    hurried = lowered(hardware, smooth, 1.0)
    phases = hurried.block_call(block, hurried.bind_inputs((X,), {})).estimator.phases  # type: ignore[attr-defined]
    errors = {n: torch.linspace(-1, 1, free.states[n].numel(), dtype=torch.float64)[None] for n in block.outputs}
    beta = 0.3
    states, _ = phases.nudged(free, errors, beta, Sample(torch.Generator()).phase())
    nudge = {n: beta / call.layer_weights[n] * e for n, e in errors.items()}
    resting, pulled = (Settling(patient.circuits(X, nudge=n)[0]) for n in ({}, nudge))
    s = resting.equilibrium()
    start = s if resting.conductance else resting.currents(s)  # a Hopfield node sits at its currents
    expected = pulled.course(1.0, start)
    assert distance(states, expected) < 4e-3
    assert distance(free.states, expected) > 0.02  # on its way


def test_a_residual_tells_how_far_it_still_is() -> None:
    model = lowered(HOPFIELD, True)
    run, call = transient(model)
    start = run.at_rest(call.bound.feedforward())
    residuals = [run.run(start, t)[1].residual for t in (1.0, 3.0, 8.0, 20.0)]
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[0] > 0.1
    assert residuals[-1] < 1e-4
    with pytest.warns(fc.errors.ConvergenceWarning, match="settling_time"):
        lowered(HOPFIELD, True, 1.0)(X)


def alone(n: int, noise: float, conductance: float | None = None) -> Transient:
    """Neurons without couplings: an identity driven by a constant input."""
    model = fc.convert(nn.Sequential(nn.Linear(1, n, bias=False)), block_size=1).double()
    (block,) = model.program.energy_blocks
    bound: BoundBlock = (
        runner_of(model).bound(block, {block.inputs[0]: torch.zeros(1, 1, dtype=torch.float64)}).detached()
    )
    D = None if conductance is None else torch.full((n,), conductance, dtype=torch.float64)
    (state,) = block.states
    neurons = {state.name: Neurons(state.name, conductance=D, noise=noise)}
    return Transient(bound, neurons, {}, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("step", [0.05, 0.25, 1.0])
@pytest.mark.parametrize("conductance", [None, 1.0, 2.5])
def test_thermal_noise_is_that_of_an_ornstein_uhlenbeck_process(step: float, conductance: float | None) -> None:
    """Stationary variance kT/C whatever the step and the node's conductance D; correlation e^(-D t) after a time t."""
    n, sigma, D = 40_000, 0.3, conductance or 1.0
    run = alone(n, sigma, conductance)
    (name,) = run.neurons
    start = {name: torch.zeros(1, n, dtype=torch.float64)}
    settled, _ = run.run(start, 8.0, step)
    later, _ = run.run(settled, 1.0, step)
    assert float(settled[name].var()) == pytest.approx(sigma**2, rel=5 * math.sqrt(2 / n))
    correlation = float(torch.corrcoef(torch.cat([settled[name], later[name]]))[0, 1])
    assert correlation == pytest.approx(math.exp(-D), abs=5 / math.sqrt(n))


def test_thermal_noise_in_volts_is_that_of_the_capacitance() -> None:
    """sqrt(kT/C): 64.4 uV for a picofarad at 300 K."""
    assert fc.Hardware(temperature=300.0, capacitance=1e-12).thermal_noise == pytest.approx(64.4e-6, rel=1e-3)
    model = fc.convert(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), block_size=2)
    chip = model.lower(hardware=fc.Hardware(temperature=300.0, capacitance=1e-12, full_scale=0.2)).calibrate(
        torch.randn(4, 2)
    )
    for state in chip.program.energy_blocks[0].states:
        neurons = chip.chip.neurons(state.name, torch.zeros(1, 3))
        assert neurons.noise * 0.2 / chip.chip.ranges[state.name].high == pytest.approx(64.4e-6, rel=1e-3)
