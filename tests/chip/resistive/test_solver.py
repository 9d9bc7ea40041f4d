"""Block coordinate descent against nodal analysis: the one equilibrium, from anywhere, down the energy all the way."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resistive_circuits import CLIPS, equilibria, flat, kirchhoff, limits, random_circuit
from scipy.optimize import lsq_linear

from benchmarks.random_networks import deep_network, double
from ffebm_compiler.chip.hardware.circuit import Circuit
from ffebm_compiler.chip.resistive.network import Drives, dissipated_power, energy
from ffebm_compiler.chip.resistive.solver import nodes, settle, solve, sweep_once
from ffebm_compiler.errors import InputError
from ffebm_compiler.solve import Tolerance

TIGHT = Tolerance(1e-13, 20_000)
SEEDS = st.integers(0, 10**9)
SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
fast = settings(deadline=None, derandomize=True, max_examples=40)


def random_start(circuit: Circuit, seed: int, scale: float = 2.0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        b.name: (scale * torch.randn(1, len(b.drive), generator=g, dtype=torch.float64)).clamp(
            b.potential.lower, b.potential.upper
        )
        for b in circuit.banks
    }


@pytest.mark.parametrize("seed", range(12))
def test_without_diodes_it_is_nodal_analysis(seed: int) -> None:
    circuit = random_circuit(seed, (3, 4, 2), clips=CLIPS[:1])
    found = solve(circuit, tolerance=TIGHT)
    assert found.relaxation.converged
    G, current = kirchhoff(circuit)
    np.testing.assert_allclose(flat(circuit, found.states), np.linalg.solve(G, current), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_with_diodes_it_is_the_one_consistent_choice(seed: int) -> None:
    circuit = random_circuit(seed)
    (expected,) = equilibria(circuit)
    found = flat(circuit, solve(circuit, tolerance=TIGHT).states)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_the_random_circuits_have_every_kind_of_diode_at_work() -> None:
    """So that the tests above test something: nodes that are free, and nodes at either bound."""
    kinds = set()
    for seed in range(20):
        circuit = random_circuit(seed)
        (s,) = equilibria(circuit)
        kinds |= {(v == low, v == high) for v, (low, high) in zip(s, limits(circuit)) if math.isfinite(low + high)}
    assert kinds == {(False, False), (True, False), (False, True)}


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_a_deep_network_minimises_the_power(gain: float) -> None:
    """Against scipy's bounded least squares, each resistor being one residual ``sqrt(w g) (A s_k - s_i)``."""
    circuit = deep_network((4, 10, 8, 3), torch.Generator().manual_seed(3), gain)
    at = {(b.name, i): n for n, (b, i) in enumerate((b, i) for b in circuit.banks for i in range(len(b.drive)))}
    rows, values = [], []
    for e in circuit.edges:
        w = circuit.bank(e.target).layer_weight
        for i, k in itertools.product(*map(range, e.positive.shape)):
            row, root = np.zeros(len(at)), math.sqrt(w * float(e.positive[i, k]))
            row[at[e.target, i]] = root
            if e.source in circuit.inputs:
                values.append(root * e.gain * float(circuit.inputs[e.source][k]))
            else:
                row[at[e.source, k]] = -root * e.gain
                values.append(0.0)
            rows.append(row)
    low, high = zip(*limits(circuit))
    expected = lsq_linear(np.array(rows), np.array(values), (low, high), method="bvls", tol=1e-14)
    found = solve(circuit, tolerance=TIGHT)
    np.testing.assert_allclose(flat(circuit, found.states), expected.x, rtol=1e-8, atol=1e-10)
    cost = energy(circuit, found.states, Drives.for_circuit(circuit))
    np.testing.assert_allclose(float(cost), expected.cost, rtol=1e-12)


@fast
@given(SEEDS, SIZES)
def test_kirchhoffs_law_holds_at_every_node(seed: int, sizes: tuple[int, ...]) -> None:
    """No current is left over where the diodes block, and what is left over pushes against a bound."""
    circuit = random_circuit(seed, sizes)
    found = solve(circuit, tolerance=TIGHT)
    assert found.relaxation.converged
    G, current = kirchhoff(circuit)
    s = flat(circuit, found.states)
    left = (current - G @ s) / np.diag(G)
    scale = 1e-10 * max(1.0, np.abs(s).max())
    for v, i, (low, high) in zip(s, left, limits(circuit)):
        assert low <= v <= high
        assert abs(i) <= scale or (v == low and i < 0) or (v == high and i > 0)


@fast
@given(SEEDS, SIZES)
def test_no_bank_raises_the_energy(seed: int, sizes: tuple[int, ...]) -> None:
    circuit = random_circuit(seed, sizes)
    drives = Drives.for_circuit(circuit)
    prepared, states = nodes(circuit, drives), random_start(circuit, seed)
    values = [float(energy(circuit, states, drives))]
    for node in prepared * 6:
        sweep_once((node,), states)
        values.append(float(energy(circuit, states, drives)))
    slack = 1e-12 * max(map(abs, values))
    assert all(after <= before + slack for before, after in itertools.pairwise(values))
    lowest = float(energy(circuit, solve(circuit, tolerance=TIGHT).states, drives))
    assert lowest <= min(values) + slack


@fast
@given(SEEDS, SIZES)
def test_every_start_ends_at_the_same_voltages(seed: int, sizes: tuple[int, ...]) -> None:
    circuit = random_circuit(seed, sizes)
    expected = flat(circuit, solve(circuit, tolerance=TIGHT).states)
    for start in range(3):
        other = solve(circuit, tolerance=TIGHT, start=random_start(circuit, seed + start, scale=10.0))
        np.testing.assert_allclose(flat(circuit, other.states), expected, rtol=1e-9, atol=1e-10)


def test_the_current_into_a_node_is_the_slope_of_the_energy() -> None:
    """``- dE/ds / w`` is what Kirchhoff's law says, at any voltages: the energy is that of the equations."""
    circuit = random_circuit(5, (3, 2, 4))
    states = {n: s.requires_grad_() for n, s in random_start(circuit, 1).items()}
    slopes = torch.autograd.grad(energy(circuit, states, Drives.for_circuit(circuit)).sum(), list(states.values()))
    current = np.concatenate([-s[0].numpy() / b.layer_weight for s, b in zip(slopes, circuit.banks)])
    G, source = kirchhoff(circuit)
    np.testing.assert_allclose(current, source - G @ flat(circuit, {n: s.detach() for n, s in states.items()}))


def test_amplifiers_of_reciprocal_gains_only_rescale_the_voltages() -> None:
    """A network with gains (A, 1/A) is the one without amplifiers, its layer l at A^(l-1) times the voltage."""
    plain, amplified = (deep_network((5, 8, 6, 3), torch.Generator().manual_seed(0), gain) for gain in (1.0, 3.0))
    a, b = (solve(c, tolerance=TIGHT).states for c in (plain, amplified))
    factors = {"h1+": 1, "h1-": 1, "h2+": 3, "h2-": 3, "out": 9}
    for name, factor in factors.items():
        torch.testing.assert_close(b[name], factor * a[name], rtol=1e-10, atol=1e-14)


def test_dissipated_power_is_voltage_drop_times_current() -> None:
    """One resistor of 2 units and a leak of 1 in series: a voltage divider, in watts."""
    circuit = random_circuit(0, (1,), clips=CLIPS[:1])
    (edge,), (bank,) = circuit.edges, circuit.banks
    one, zero = torch.tensor([[2.0]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    edge = dataclasses.replace(edge, positive=one, negative=zero, gain=1.5)
    none = torch.zeros(1, dtype=torch.float64)
    bank = dataclasses.replace(bank, drive=none, nudge=none, leak=none + 1)
    source = torch.tensor([0.4], dtype=torch.float64)
    divider = dataclasses.replace(circuit, banks=(bank,), edges=(edge,), inputs={"x": source}, siemens=1e-5, volts=0.5)
    states = solve(divider, tolerance=TIGHT).states
    rail = 1.5 * 0.4 * 0.5  # volts
    np.testing.assert_allclose(float(states["b0"]) * 0.5, rail * 2 / 3, rtol=1e-12)
    power = dissipated_power(divider, states, Drives.for_circuit(divider))
    np.testing.assert_allclose(float(power), rail**2 / (1 / 2e-5 + 1 / 1e-5), rtol=1e-12)


def test_a_batch_is_its_samples() -> None:
    circuit = deep_network((4, 6, 3), torch.Generator().manual_seed(1), input_gain=5.0)
    x = double(torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    nudge = {"out": 0.1 * x[:, :3]}
    together = solve(circuit, {"x": x}, nudge, TIGHT).states
    for i in range(5):
        alone = solve(circuit, {"x": x[i : i + 1]}, {"out": nudge["out"][i : i + 1]}, TIGHT).states
        np.testing.assert_allclose(flat(circuit, together, i), flat(circuit, alone), rtol=1e-10, atol=1e-13)


def test_a_nudge_draws_current_from_its_node() -> None:
    circuit = random_circuit(4, (2, 3), clips=CLIPS[:1])
    draw = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    nudged = dataclasses.replace(
        circuit, banks=(circuit.banks[0], dataclasses.replace(circuit.banks[1], nudge=draw[0]))
    )
    G, current = kirchhoff(nudged)
    found = solve(circuit, nudges={"b1": draw}, tolerance=TIGHT).states
    np.testing.assert_allclose(flat(circuit, found), np.linalg.solve(G, current), rtol=1e-10)


def test_single_precision_ends_at_the_same_voltages() -> None:
    wide = deep_network((6, 20, 16, 3), torch.Generator().manual_seed(0))
    narrow = dataclasses.replace(
        wide,
        banks=tuple(
            dataclasses.replace(b, **{f: getattr(b, f).float() for f in ("drive", "nudge", "leak", "offset", "gain")})
            for b in wide.banks
        ),
        edges=tuple(
            dataclasses.replace(
                e,
                **{f: getattr(e, f).float() for f in ("positive", "negative", "back_positive", "back_negative")},
                back=None if e.back is None else e.back.float(),
            )
            for e in wide.edges
        ),
        inputs={"x": wide.inputs["x"].float()},
    )
    a, b = solve(wide, tolerance=TIGHT), solve(narrow, tolerance=Tolerance(1e-6, 1000))
    assert b.relaxation.converged
    scale = max(float(v.abs().max()) for v in a.states.values())
    for name, v in a.states.items():
        torch.testing.assert_close(b.states[name].double(), v, rtol=1e-5, atol=1e-6 * scale)


def test_not_to_converge_is_a_result() -> None:
    circuit = random_circuit(1, (4, 4, 4))
    found = settle("slow", nodes(circuit, Drives.for_circuit(circuit)), Tolerance(1e-13, 2))
    assert (found.relaxation.sweeps, found.relaxation.converged) == (2, False)
    assert 1e-13 < found.relaxation.residual < math.inf


def test_every_drive_that_does_not_fit_is_named_at_once() -> None:
    circuit = random_circuit(0)
    wide = torch.zeros(1, 9, dtype=torch.float64)
    with pytest.raises(InputError) as caught:
        solve(circuit, {"y": wide}, {"b1": wide, "b7": wide})
    assert {p.where for p in caught.value.problems} == {"input x", "input y", "nudge b1", "nudge b7"}


def test_another_physics_and_floating_nodes_are_refused() -> None:
    circuit = random_circuit(0)
    with pytest.raises(InputError, match="physics hopfield"):
        solve(dataclasses.replace(circuit, physics="hopfield"))
    banks = tuple(dataclasses.replace(b, leak=None) for b in circuit.banks)
    with pytest.raises(InputError, match="without any conductance") as caught:
        solve(dataclasses.replace(circuit, banks=banks, edges=()))
    assert len(caught.value.problems) == len(banks)
    offset = (dataclasses.replace(circuit.banks[0], offset=circuit.banks[0].drive), *circuit.banks[1:])
    with pytest.raises(InputError, match="offsets"):
        solve(dataclasses.replace(circuit, banks=offset))
