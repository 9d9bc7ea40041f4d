"""The emulator against ngspice: voltages, gradients and settling times of random blocks, by the machinery of
benchmarks/circuits.py.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))  # the benchmarks are no part of the package

import ffebm_compiler as fc
from benchmarks import circuits
from benchmarks.circuits import CASES, Case, Seen, cosine, difference, emulate, gradients
from ffebm_compiler.chip.spice import settling_time, solve_op, solve_tran

needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
CHOSEN = {
    "dense": Case("dense", (5, 7, 6, 4), "relu", "everything", loop_gain=0.3),
    "skips": Case("dense", (5, 6, 6, 6, 4), "tanh", "everything", skips=((1, 3), (2, 4))),
    "conv": Case("conv", (1, 2, 2), "sigmoid", "two arrays"),
    "unit feedback": Case("dense", (6, 10, 5), "clamp", "everything", loop_gain=None),
    "resistive": Case("dense", (5, 7, 6, 4), "hardtanh", "resistive, everything", "resistive"),
    "resistive conv": Case("conv", (1, 2, 2), "relu", "levels, programming error", "resistive"),
}


def seen(case: Case, seed: int = 0) -> tuple[circuits.Layers, Seen]:
    generator = torch.Generator().manual_seed(seed)
    net = case.network(generator)
    x = case.input(generator)
    model = fc.convert(net, block_size=len(net.links), loop_gain=case.loop_gain, max_sweeps=2000)
    chip = model.lower("analog-emu", hardware=case.hardware, chip_seed=seed).calibrate(x)
    with torch.no_grad():
        error = torch.randn(chip(x[:1]).shape, generator=generator, dtype=torch.float64)
    return net, emulate(chip, x[:1], error)


@pytest.mark.slow
@needs_ngspice
@pytest.mark.parametrize("name", CHOSEN)
def test_voltages_gradients_and_settling_times_are_those_of_the_circuit(name: str) -> None:
    net, found = seen(CHOSEN[name])
    simulated = {phase: solve_op(circuit) for phase, circuit in found.circuits.items()}
    assert max(difference(v, found.phases[phase]) for phase, v in simulated.items()) < 1e-6

    # the nudged phases are told apart: a nudge that ngspice did not get would pass the test above at its tolerance
    # alone
    assert min(difference(simulated[phase], found.phases["free"]) for phase in "+-") > 1e-4

    free = found.circuits["free"]
    by_hand = gradients(net, simulated["+"], simulated["-"], free, found.error / (2 * found.beta))
    assert by_hand.keys() == found.gradients.keys()
    for parameter, gradient in by_hand.items():
        delivered = found.gradients[parameter].numpy()
        assert np.abs(gradient).max() > 0, parameter
        assert cosine(gradient, delivered) > 0.99999, parameter
        assert np.linalg.norm(gradient) == pytest.approx(float(np.linalg.norm(delivered)), rel=1e-3), parameter

    times, course = solve_tran(free, 60 * free.time_constant)
    final = {n: v.flatten() for n, v in found.phases["free"].items()}
    assert difference({n: v[-1] for n, v in course.items()}, found.phases["free"]) < 1e-6
    assert settling_time(times, course, final=final) / free.time_constant == pytest.approx(found.settling, rel=0.005)


def test_the_benchmark_draws_at_least_twenty_blocks_of_every_kind() -> None:
    assert len(CASES) >= 20
    assert {c.physics for c in CASES} == {"hopfield", "resistive"}
    assert {c.activation for c in CASES} >= {"relu", "clamp", "tanh", "sigmoid"}
    assert {len(c.sizes) - 1 for c in CASES if c.shape == "dense" and c.physics == "hopfield"} >= set(range(2, 7))
    assert any(c.skips for c in CASES)
    assert any(c.shape == "conv" for c in CASES)


def test_the_gradient_of_a_kernel_is_summed_over_its_positions() -> None:
    """Against autograd through the convolution itself, for a cotangent of its output."""
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    shape = circuits.PIXELS, circuits.PIXELS
    x, e = (torch.randn(1, n, *shape, generator=generator, dtype=torch.float64) for n in (2, 3))
    (expected,) = torch.autograd.grad((layer(x) * e).sum(), layer.weight)
    outer = np.outer(e.flatten().numpy(), x.flatten().numpy())
    np.testing.assert_allclose(circuits.of_kernel(outer, layer), expected.numpy(), rtol=1e-12, atol=1e-12)


# --- settling times, against a closed form ------------------------------------------------------------------


def one_layer(weight: float, **errors: float) -> fc.AnalogFFEBM:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.fill_(weight)
    chip = fc.convert(net.eval(), block_size=1).lower("analog-emu", hardware=fc.Hardware(time_constant=2e-7, **errors))
    return chip.calibrate(torch.ones(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-4])
def test_a_single_neuron_settles_as_an_exponential(tolerance: float) -> None:
    """``1 - e^(-t/tau)`` is within the tolerance of 1 from ``tau ln(1/tolerance)`` on; chords of h = 0.05 are late by
    at most h^2/8.
    """
    (found,) = one_layer(0.7).settling_times(torch.tensor([[1.0]]).double(), tolerance=tolerance).values()
    exact = 2e-7 * np.log(1 / tolerance)
    assert 0 <= found.item() - exact < 2e-7 * 0.05**2 / 4
    assert found.shape == (1,)


def test_each_sample_has_a_settling_time_of_its_own() -> None:
    """One neuron's is the same for every input but 0, where it is settled from the start."""
    (found,) = one_layer(0.7).settling_times(torch.tensor([[1.0], [0.0], [-3.0]]).double()).values()
    assert found[1] == 0
    assert found[0] == pytest.approx(found[2].item(), rel=1e-9)
    assert found[0] > 8e-7


def test_a_tolerance_that_is_never_reached_is_infinity() -> None:
    (found,) = one_layer(0.7).settling_times(torch.ones(1, 1).double(), tolerance=1e-14).values()
    assert found.item() == np.inf


def test_looking_at_the_settling_leaves_the_noise_of_later_readings_as_it_was() -> None:
    x = torch.randn(4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chips = [one_layer(0.7, read_noise=0.1, temperature=300.0) for _ in range(2)]
    chips[0].settling_times(x)
    assert torch.equal(chips[0](x), chips[1](x))


@pytest.mark.slow
@needs_ngspice
def test_a_quick_run_of_the_benchmark_writes_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert circuits.main(["--quick", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "circuits.json").read_text())
    assert [r["verdict"] for r in found["rows"]] == ["ok"] * 3
    assert {r["physics"] for r in found["rows"]} == {"hopfield", "resistive"}
    assert float(found["speed"][0]["ratio .op"]) > 0
    assert "3 of 3 blocks agree" in capsys.readouterr().out
    assert (tmp_path / "circuits.png").stat().st_size > 10_000
