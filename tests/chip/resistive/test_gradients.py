"""Gradients from voltages: against finite differences of the solved network, and against differentiating its
relaxation.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from resistive_circuits import random_circuit
from torch import Tensor

from benchmarks.random_networks import deep_network, double
from ffebm_compiler.chip.hardware.circuit import Circuit
from ffebm_compiler.chip.resistive.gradients import (
    ConductanceGradients,
    conductance_gradients,
    nudges,
    weight_gradients,
)
from ffebm_compiler.chip.resistive.network import Drives
from ffebm_compiler.chip.resistive.solver import nodes, solve, sweep_once
from ffebm_compiler.solve import Tolerance

TIGHT = Tolerance(1e-14, 20_000)
BETA = 1e-5
STEP = 1e-5


def target(circuit: Circuit, batch: int) -> Tensor:
    n = len(circuit.banks[-1].drive)
    return torch.randn(batch, n, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def batch(circuit: Circuit, size: int = 3) -> dict[str, Tensor]:
    n = circuit.inputs["x"].numel()
    return {"x": torch.randn(size, n, generator=torch.Generator().manual_seed(8), dtype=torch.float64)}


def phases(circuit: Circuit, inputs: dict[str, Tensor], beta: float = BETA) -> tuple[dict, dict]:
    """The voltages at +beta and -beta under half the squared distance to the target."""
    free = solve(circuit, inputs, tolerance=TIGHT).states
    out = circuit.banks[-1].name
    errors = {out: free[out] - target(circuit, len(inputs["x"]))}
    plus, minus = (
        solve(circuit, inputs, _with_own(circuit, nudges(circuit, errors, b)), TIGHT, free).states
        for b in (beta, -beta)
    )
    return plus, minus


def _with_own(circuit: Circuit, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: circuit.bank(n).nudge + v for n, v in drawn.items()}


def loss(circuit: Circuit, inputs: dict[str, Tensor]) -> float:
    out = solve(circuit, inputs, tolerance=TIGHT).states[circuit.banks[-1].name]
    return float(((out - target(circuit, len(out))) ** 2).sum() / 2)


def changed(circuit: Circuit, edge: int, field: str, at: tuple[int, int], by: float) -> Circuit:
    """The circuit with one resistor changed, in the drive and in the feedback."""
    e = circuit.edges[edge]
    g = getattr(e, field).clone()
    g[at] += by
    new = dataclasses.replace(e, **{field: g, f"back_{field}": g})
    return dataclasses.replace(circuit, edges=(*circuit.edges[:edge], new, *circuit.edges[edge + 1 :]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_against_finite_differences_of_every_resistor(seed: int) -> None:
    circuit = random_circuit(seed, (2, 3, 2))
    inputs = batch(circuit)
    found = conductance_gradients(circuit, *phases(circuit, inputs), BETA, inputs)
    for field, gradients in (("positive", found.positive), ("negative", found.negative)):
        for edge, gradient in enumerate(gradients):
            expected = torch.zeros_like(gradient)
            for at in torch.cartesian_prod(*map(torch.arange, gradient.shape)).tolist():
                up, down = (loss(changed(circuit, edge, field, tuple(at), s * STEP), inputs) for s in (1, -1))
                expected[tuple(at)] = (up - down) / (2 * STEP)
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def unrolled(circuit: Circuit, inputs: dict[str, Tensor]) -> ConductanceGradients:
    """The same by automatic differentiation through the relaxation."""
    pairs = [(e.positive.clone().requires_grad_(), e.negative.clone().requires_grad_()) for e in circuit.edges]
    leaves = {b.name: (b.leak.clone().requires_grad_(), b.drive.clone().requires_grad_()) for b in circuit.banks}
    leafy = dataclasses.replace(
        circuit,
        edges=tuple(
            dataclasses.replace(e, positive=P, negative=N, back_positive=P, back_negative=N)
            for e, (P, N) in zip(circuit.edges, pairs)
        ),
        banks=tuple(dataclasses.replace(b, leak=leaves[b.name][0], drive=leaves[b.name][1]) for b in circuit.banks),
    )
    prepared, states = nodes(leafy, Drives.for_circuit(leafy, inputs)), dict[str, Tensor]()
    for _ in range(400):
        sweep_once(prepared, states)
    out = states[circuit.banks[-1].name]
    ((out - target(circuit, len(out))) ** 2).sum().div(2).backward()
    return ConductanceGradients(
        tuple(P.grad for P, _ in pairs),
        tuple(N.grad for _, N in pairs),
        {n: leak.grad for n, (leak, _) in leaves.items()},
        {n: drive.grad for n, (_, drive) in leaves.items()},
    )


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_against_differentiating_the_relaxation(gain: float) -> None:
    circuit = deep_network((4, 12, 10, 3), torch.Generator().manual_seed(4), gain, input_gain=30.0)
    inputs = {"x": double(batch(circuit, 6)["x"][:, :4])}
    found, expected = conductance_gradients(circuit, *phases(circuit, inputs), BETA, inputs), unrolled(circuit, inputs)
    for name in ("positive", "negative"):
        for g, e in zip(getattr(found, name), getattr(expected, name)):
            assert float(e.abs().max()) > 0
            torch.testing.assert_close(g, e, rtol=1e-5, atol=1e-7 * float(e.abs().max()))
    for kind in ("leak", "drive"):
        for bank, e in getattr(expected, kind).items():
            torch.testing.assert_close(getattr(found, kind)[bank], e, rtol=1e-5, atol=1e-7 * float(e.abs().max()))


@pytest.mark.parametrize("seed", range(4))
def test_weights_whose_leaks_make_up_for_them(seed: int) -> None:
    """The gradient in W: change a weight, its resistor and the leaks at both of its ends, and solve again."""
    circuit = random_circuit(seed, (3, 3, 2))
    circuit = dataclasses.replace(circuit, banks=tuple(dataclasses.replace(b, leak=b.leak + 1) for b in circuit.banks))
    inputs = batch(circuit)
    found = weight_gradients(circuit, *phases(circuit, inputs), BETA, inputs)
    for edge, gradient in enumerate(found):
        for at in [(0, 0), (gradient.shape[0] - 1, gradient.shape[1] - 1)]:
            for field in ("positive", "negative"):
                up, down = (loss(_reweighted(circuit, edge, field, at, s * STEP), inputs) for s in (1, -1))
                torch.testing.assert_close(float(gradient[at]), (up - down) / (2 * STEP), rtol=1e-5, atol=1e-7)


def _reweighted(circuit: Circuit, edge: int, field: str, at: tuple[int, int], by: float) -> Circuit:
    """A weight larger by ``by``: one of its resistors changes by ``+-by / A``, and the leaks at its ends make up for
    that.
    """
    e = circuit.edges[edge]
    grown = (1 if field == "positive" else -1) * by / e.gain
    more = {e.target: (at[0], grown)}
    if e.back is not None:
        more[e.source] = (at[1], grown * float(e.back[at[1]]) * e.gain)
    banks = []
    for b in circuit.banks:
        leak = b.leak.clone()
        if b.name in more:
            leak[more[b.name][0]] -= more[b.name][1]
        banks.append(dataclasses.replace(b, leak=leak))
    return dataclasses.replace(changed(circuit, edge, field, at, grown), banks=tuple(banks))


def test_without_diodes_a_nudge_of_any_size_is_exact() -> None:
    """The voltages are then linear in the nudge, and the energy's second order cancels between both sides."""
    circuit = random_circuit(3, (3, 2), clips=((-float("inf"), float("inf")),))
    inputs = batch(circuit)
    exact = unrolled(circuit, inputs).positive
    found = conductance_gradients(circuit, *phases(circuit, inputs, 1.0), 1.0, inputs).positive
    for g, e in zip(found, exact):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11)
