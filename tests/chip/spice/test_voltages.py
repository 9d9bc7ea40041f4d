"""ngspice's voltages are the equilibria of the equations in ``hardware/circuit.py``, found by an independent solver."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spice_circuits import INFINITY, Draw, Oracle, worst

from ffebm_compiler.chip.hardware.circuit import Circuit
from ffebm_compiler.chip.spice import SimulatorError, settling_time, solve_op, solve_tran, unrest
from ffebm_compiler.ir import IDENTITY, Potential
from ffebm_compiler.rules import piecewise
from ffebm_compiler.rules.elu import elu
from ffebm_compiler.rules.piecewise import HARDSIGMOID, RELU, RELU6, clamp, leaky_relu
from ffebm_compiler.rules.sigmoidal import SIGMOID, TANH
from ffebm_compiler.rules.softplus import softplus

pytestmark = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")

HARDTANH = clamp(-1.0, 1.0, kind=piecewise.HARDTANH)
CLAMP = clamp(-0.4, 0.7)
CLIPPING = (RELU, CLAMP, HARDTANH, IDENTITY, RELU6)
ALL = (*CLIPPING, TANH, SIGMOID, leaky_relu(0.1), HARDSIGMOID, softplus(2.0), elu(0.7), elu(1.3, 1.05, 0.8))

HOPFIELD = {
    "one layer": Draw((RELU,), (7,), 1),
    "relu": Draw((RELU, RELU, RELU), (8, 7, 6), 2),
    "six layers": Draw((RELU, CLAMP, TANH, SIGMOID, RELU, IDENTITY), (6, 5, 6, 5, 6, 5), 3, strength=0.4),
    "clamps": Draw((CLAMP, HARDTANH, RELU6), (12, 9, 4), 4),
    "smooth": Draw((TANH, SIGMOID, softplus(2.0), elu(0.7)), (6, 6, 6, 6), 5),
    "skips": Draw((RELU, TANH, CLAMP), (8, 8, 8), 6, skip=True),
    "nudged": Draw((RELU, TANH), (9, 7), 7, nudge=0.3),
    "mismatched": Draw((RELU, leaky_relu(0.1), SIGMOID), (7, 7, 7), 8, mismatch=0.1),
    "limited": Draw((RELU, IDENTITY, TANH), (7, 7, 7), 9, limit=0.5),
    "two arrays": Draw((HARDTANH, RELU), (8, 8), 10, bidirectional=False),
    "all at once": Draw(
        (RELU, TANH, HARDSIGMOID, CLAMP), (8, 7, 6, 5), 11, "hopfield", 0.2, 0.1, 0.9, True, False, 0.4
    ),
}
RESISTIVE = {
    "one layer": Draw((RELU,), (7,), 1, "resistive"),
    "relu": Draw((RELU, RELU, RELU), (8, 7, 6), 2, "resistive"),
    "six layers": Draw((RELU, CLAMP, HARDTANH, RELU6, RELU, IDENTITY), (6, 5, 6, 5, 6, 5), 3, "resistive"),
    "clamps": Draw((CLAMP, HARDTANH, RELU6), (12, 9, 4), 4, "resistive"),
    "skips": Draw((RELU, CLAMP, HARDTANH), (8, 8, 8), 6, "resistive", skip=True),
    "nudged": Draw((RELU, IDENTITY), (9, 7), 7, "resistive", nudge=0.3),
    "limited": Draw((RELU, IDENTITY, CLAMP), (7, 7, 7), 9, "resistive", limit=0.3),
}


@pytest.mark.parametrize("draw", HOPFIELD.values(), ids=HOPFIELD.keys())
def test_hopfield_equilibria(draw: Draw) -> None:
    circuit = draw.circuit()
    assert worst(solve_op(circuit), Oracle(circuit).equilibrium()) < 1e-9


@pytest.mark.parametrize("draw", RESISTIVE.values(), ids=RESISTIVE.keys())
def test_resistive_equilibria(draw: Draw) -> None:
    """The diodes conduct 1e8 times what a weight of 1 does, and carry currents of the order of 1."""
    circuit = draw.circuit()
    expected = Oracle(circuit).equilibrium()
    assert worst(solve_op(circuit), expected) < 1e-6
    times, states = solve_tran(circuit)
    assert worst({n: v[-1] for n, v in states.items()}, expected) < 1e-6
    assert unrest(times, states) < 1e-5


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_random_circuits(data: st.DataObject) -> None:
    physics = data.draw(st.sampled_from(("hopfield", "resistive")))
    potentials = data.draw(
        st.lists(st.sampled_from(ALL if physics == "hopfield" else CLIPPING), min_size=1, max_size=4)
    )
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=len(potentials), max_size=len(potentials)))
    draw = Draw(
        potentials,
        sizes,
        data.draw(st.integers(0, 10_000)),
        physics,
        nudge=data.draw(st.sampled_from((0.0, 0.2))),
        mismatch=data.draw(st.sampled_from((0.0, 0.1))),
        limit=data.draw(st.sampled_from((INFINITY, 0.8))),
        skip=data.draw(st.booleans()),
        bidirectional=physics == "resistive" or data.draw(st.booleans()),
        strength=0.35,
    )
    scaled = replace(
        draw.circuit(),
        siemens=10 ** data.draw(st.floats(-7, -3)),
        volts=10 ** data.draw(st.floats(-2, 0.5)),
        time_constant=10 ** data.draw(st.floats(-10, -3)),
    )
    expected = Oracle(scaled).equilibrium()
    found = solve_op(scaled)
    if max(np.abs(v).max() for v in expected.values()) == 0:
        assert all(float(v.abs().max()) < 1e-6 for v in found.values())
    else:
        assert worst(found, expected) < 1e-6


@pytest.mark.parametrize("potential", ALL, ids=lambda p: f"{p.name}_{p.lower:g}_{p.upper:g}")
def test_a_neuron_computes_its_activation(potential: Potential) -> None:
    """One bank without any array: s = sigma(drive), over the whole range of currents."""
    drive = torch.cat(
        (torch.linspace(-40, 40, 41, dtype=torch.float64), torch.linspace(-3, 3, 13, dtype=torch.float64))
    )
    circuit = Draw((potential,), (len(drive),), 0).circuit()
    bank = replace(circuit.banks[0], drive=drive)
    alone = replace(circuit, banks=(bank,), edges=(), inputs={}, input_labels={})
    expected = potential.activation(drive)
    assert torch.allclose(solve_op(alone)["s0"], expected, rtol=1e-9, atol=1e-12)


def test_a_neuron_charges_as_a_capacitor_does() -> None:
    """s(t) = I (1 - exp(-t / tau)), and it is within 1 % of I from ln(100) tau on."""
    circuit = Draw((IDENTITY,), (1,), 0).circuit()
    bank = replace(circuit.banks[0], drive=torch.tensor([0.8], dtype=torch.float64))
    alone = replace(circuit, banks=(bank,), edges=(), inputs={}, input_labels={}, time_constant=2e-6)
    times, states = solve_tran(alone)
    expected = 0.8 * (1 - torch.exp(-times / 2e-6))
    assert torch.allclose(states["s0"][:, 0], expected, atol=3e-4)
    assert settling_time(times, states) == pytest.approx(np.log(100) * 2e-6, rel=0.002)


def test_a_resistive_node_charges_through_all_its_resistors() -> None:
    """Its time constant is C over leak + P + N."""
    circuit = Draw((IDENTITY,), (1,), 3, "resistive", inputs=1).circuit()
    edge, bank = circuit.edges[0], circuit.banks[0]
    assert bank.leak is not None
    tau = circuit.time_constant / float(bank.leak + edge.positive.sum() + edge.negative.sum())
    times, states = solve_tran(circuit)
    assert settling_time(times, states) == pytest.approx(np.log(100) * tau, rel=0.005)


@pytest.mark.parametrize("name", ["relu", "smooth", "skips", "mismatched"])
def test_transients(name: str) -> None:
    """Against scipy's Runge-Kutta, on the same instants; and the settling time, which the emulator is to predict within
    5 %.
    """
    circuit = HOPFIELD[name].circuit()
    times, states = solve_tran(circuit, duration=15 * circuit.time_constant)
    instants = times.numpy() / circuit.time_constant
    expected = Oracle(circuit).transient(instants)
    assert max(np.abs(states[n].numpy() - v).max() for n, v in expected.items()) < 1e-3
    found = settling_time(torch.from_numpy(instants), {n: torch.from_numpy(v) for n, v in expected.items()})
    assert settling_time(times, states) == pytest.approx(found * circuit.time_constant, rel=0.005)


def bistable() -> Circuit:
    """Two saturating neurons that excite each other: 0 is an unstable equilibrium."""
    circuit = Draw((HARDTANH, HARDTANH), (1, 1), 0).circuit()
    one, small = torch.ones(1, 1, dtype=torch.float64), torch.tensor([1e-3], dtype=torch.float64)
    edge = replace(
        circuit.edges[1],
        **dict.fromkeys(("positive", "back_positive"), 2 * one),
        **dict.fromkeys(("negative", "back_negative"), 0 * one),
        reverse=one[0],
    )
    banks = tuple(replace(b, drive=small * (k == 0)) for k, b in enumerate(circuit.banks))
    return replace(circuit, banks=banks, edges=(edge,), inputs={}, input_labels={})


def test_the_transient_leaves_an_unstable_equilibrium() -> None:
    """From u = 0 with a small current: the exact course is at +1, wherever ``.op`` lands."""
    _, states = solve_tran(bistable())
    assert [round(float(states[n][-1, 0]), 6) for n in ("s0", "s1")] == [1.0, 1.0]


def test_silicon_diodes_hold_a_node_less_well() -> None:
    """A 1N4148 drops some 0.3 to 0.7 V where the ideal diode drops nothing."""
    circuit = replace(RESISTIVE["clamps"].circuit(), volts=0.1)
    ideal, silicon = solve_op(circuit), solve_op(circuit, diodes="silicon")
    assert float(ideal["s0"].max()) <= 0.7 + 1e-6
    excess = max(float((silicon[n] - ideal[n]).abs().max()) for n in ideal)
    assert 0.05 < excess < 10


def test_a_node_without_any_conductance_is_an_error() -> None:
    """ngspice itself ends with status 0."""
    circuit = Draw((IDENTITY,), (1,), 0, "resistive").circuit()
    bank = replace(circuit.banks[0], leak=None, drive=torch.ones(1, dtype=torch.float64))
    with pytest.raises(SimulatorError, match="netlist block1: ngspice says"):
        solve_op(replace(circuit, banks=(bank,), edges=(), inputs={}, input_labels={}))
