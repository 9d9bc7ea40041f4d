"""Displacements by conjugate gradients, against the dense tangent system of the stationarity equations."""

from __future__ import annotations

import math

import pytest
import torch
from explicit_blocks import calls
from hypothesis import given, settings
from hypothesis import strategies as st
from strong_blocks import ACTIVATIONS, Pooled, Skips, blocks, bound_block, chain, distance, swept, tangent_displacement
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.solve import AUTOMATIC, EXPLICIT, BoundBlock, Differentiation, Relaxation, States, Tolerance, relax
from ffebm_compiler.solve import displacement as displacement_module
from ffebm_compiler.solve.conjugate_gradients import Division, conjugate, dot
from ffebm_compiler.solve.displacement import displace

SEARCH = settings(max_examples=30, deadline=None, derandomize=True)
TIGHT = Tolerance(1e-10, 5000)


def errors(bound: BoundBlock, states: States) -> States:
    generator = torch.Generator().manual_seed(7)
    return {n: torch.randn(states[n].shape, generator=generator, dtype=torch.float64) for n in bound.block.outputs}


def nudge_of(bound: BoundBlock, delta: States, beta: float = -1.0) -> States:
    return {n: -beta / bound.layer_weights[n] * e for n, e in delta.items()}


def parts_of(nudge: States) -> dict[str, tuple[float, Tensor]]:
    return {n: (1.0, v) for n, v in nudge.items()}


def by_sweeps(
    bound: BoundBlock, states: States, delta: States, tolerance: Tolerance, monkeypatch: pytest.MonkeyPatch
) -> tuple[States, Relaxation]:
    with monkeypatch.context() as patch:
        patch.setattr(displacement_module, "SLOW", math.inf)
        return displace(EXPLICIT.linearise(bound, states), delta, -1.0, tolerance, tangent=True)


def check(bound: BoundBlock, how: Differentiation = EXPLICIT, tolerance: float = 1e-10) -> Relaxation:
    """At its equilibrium, however that is found."""
    states, _ = swept(bound, 1e-12, 3000)
    delta = errors(bound, states)
    d, record = displace(how.linearise(bound, states), delta, -1.0, Tolerance(tolerance, 3000), tangent=True)
    exact = tangent_displacement(bound, states, nudge_of(bound, delta))
    assert record.converged
    assert distance(d, exact) <= 4 * Tolerance(tolerance).nudged(torch.float64)
    return record


@pytest.mark.slow
@pytest.mark.parametrize("how", [AUTOMATIC, EXPLICIT])
@pytest.mark.parametrize(
    "activations", [["clamp"] * 5, ["tanh"] * 4, ["softmax", "clamp", "softmax"], ["leaky", "sigmoid", "relu6"]]
)
def test_chains(activations: list[str], how: Differentiation) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        bound = bound_block(chain(activations, 8), torch.randn(3, 8), 0.9)
    check(bound, how)


@pytest.mark.slow
@given(blocks(), st.sampled_from([1e-4, 1e-8]))
@SEARCH
def test_never_more_evaluations_than_sweeps(bound: BoundBlock, tolerance: float) -> None:
    states, _ = swept(bound, 1e-12, 500)
    delta = errors(bound, states)
    linear = EXPLICIT.linearise(bound, states)
    d, record = displace(linear, delta, -1.0, Tolerance(tolerance, 500), tangent=True)
    with pytest.MonkeyPatch.context() as patch:
        _, plain = by_sweeps(bound, states, delta, Tolerance(tolerance, 500), patch)
    assert record.converged or not plain.converged
    assert record.sweeps <= plain.sweeps + 2 or not plain.converged
    if record.converged:
        exact = tangent_displacement(bound, states, nudge_of(bound, delta))
        assert distance(d, exact) <= 4 * Tolerance(tolerance).nudged(torch.float64)


@pytest.mark.parametrize("scale", [0.3, 0.55])
def test_states_joined_in_triangles(scale: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bound = bound_block(Skips(ACTIVATIONS["clamp"], 6, 5), torch.randn(2, 6), scale)
    check(bound)


def test_a_smooth_coupling_joins_its_source_to_itself() -> None:
    """A GELU inside of a coupling: its curvature is part of the system."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)
        )
        bound = bound_block(net, torch.randn(2, 6), 1.1)
    curved = {n for s in bound.block.states if not s.drive.is_linear for n in s.drive.sources}
    assert curved
    division = Division.of(bound.block, {s.name: 1 for s in bound.block.states})
    assert curved <= {s.name for s in division.kept}
    check(bound)


def test_held_maxima() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bound = bound_block(Pooled(), torch.randn(2, 2, 4, 4), 1.2)
    check(bound.holding(bound.winners(bound.feedforward())))


@pytest.mark.parametrize("batch", [1, 0])
def test_few_samples(batch: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bound = bound_block(chain(["clamp"] * 4), torch.randn(3, 6), 1.1)
    bound = BoundBlock(bound.block, {k: v[:batch] for k, v in bound.inputs.items()}, bound.weights, bound.layer_weights)
    if batch:
        check(bound)
        return
    states = bound.feedforward()
    d, record = displace(EXPLICIT.linearise(bound, states), errors(bound, states), -1.0, TIGHT, tangent=True)
    assert record.converged
    assert {n: v.shape for n, v in d.items()} == {n: v.shape for n, v in states.items()}


def test_no_error_moves_nothing() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bound = bound_block(chain(["tanh"] * 3), torch.randn(2, 6))
    states, _ = swept(bound, 1e-12, 500)
    linear = EXPLICIT.linearise(bound, states)
    delta = {n: torch.zeros_like(e) for n, e in errors(bound, states).items()}
    d, record = displace(linear, delta, -1.0, TIGHT, tangent=True)
    assert record.converged
    assert all(not v.any() for v in d.values())
    states = {s.name for s in bound.block.states}
    division = Division.of(bound.block, dict.fromkeys(states, 1))
    still = {s.name: torch.zeros_like(linear.states[s.name]) for s in division.kept}
    d, record = conjugate(linear, division, parts_of(delta), still, 1e-10, 10)
    assert record.converged
    assert all(not v.any() for v in d.values())


def test_a_strong_chain_takes_a_fraction_of_the_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        bound = bound_block(chain(["hardtanh"] * 5, 12), torch.randn(3, 12), 1.0)
    states, _ = swept(bound, 1e-12, 3000)
    delta = errors(bound, states)
    _, plain = by_sweeps(bound, states, delta, TIGHT, monkeypatch)
    assert check(bound).sweeps < plain.sweeps / 3


@pytest.mark.slow
def test_a_system_that_is_not_positive_is_left_to_sweeps() -> None:
    """A point where the energy is not convex: conjugate gradients say so, and nothing claims to have converged."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        bound = bound_block(chain(["leaky"] * 3), torch.randn(2, 6), 3.0)
    states = {n: torch.ones_like(s) for n, s in bound.feedforward().items()}
    linear, delta = EXPLICIT.linearise(bound, states), errors(bound, states)
    sizes = {n: v.numel() for n, v in states.items()}
    division = Division.of(bound.block, sizes)
    still = {s.name: torch.zeros_like(states[s.name]) for s in division.kept}
    d, record = conjugate(linear, division, parts_of(nudge_of(bound, delta)), still, 1e-10, 200)
    assert math.isinf(record.residual)
    assert all(bool(v.isfinite().all()) for v in d.values())
    _, record = displace(linear, delta, -1.0, TIGHT, tangent=True)
    assert not record.converged


def test_what_is_not_tangent_ends_in_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite nudge, at which states change sides: the same as sweeps of differences, in fewer of them."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        bound = bound_block(chain(["hardtanh"] * 4, 12), torch.randn(3, 12), 0.9)
    states, _ = swept(bound, 1e-14, 3000)
    linear, delta = EXPLICIT.linearise(bound, states), errors(bound, states)
    for beta in (1e-6, 0.3):
        found, record = displace(linear, delta, beta, TIGHT)
        with monkeypatch.context() as patch:
            patch.setattr(displacement_module, "SLOW", math.inf)
            expected, plain = displace(linear, delta, beta, TIGHT)
        assert distance(found, expected) < 1e-7
        assert record.converged
        assert record.sweeps <= plain.sweeps


def test_the_opposite_displacement_is_where_the_opposite_nudge_starts() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        bound = bound_block(chain(["hardtanh"] * 4, 12), torch.randn(3, 12), 0.9)
    states, _ = swept(bound, 1e-14, 3000)
    linear, delta = EXPLICIT.linearise(bound, states), errors(bound, states)
    first, _ = displace(linear, delta, 1e-7, TIGHT)
    start = {n: -v for n, v in first.items()}
    kept = {n: v.clone() for n, v in start.items()}
    second, record = displace(linear, delta, -1e-7, TIGHT, start=start)
    expected, alone = displace(linear, delta, -1e-7, TIGHT)
    assert distance(second, expected) < 1e-7
    assert record.sweeps == 2 < alone.sweeps
    assert all(torch.equal(start[n], v) for n, v in kept.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "branching", "vgg", "softmax_head", "output_tuple"])
def test_models_of_the_zoo_at_stronger_feedback(name: str) -> None:
    """Reverse gains between the paper's and the default ones."""
    taken = []
    for call in calls(name):
        bound = call.bound.with_layer_weights({n: w**0.4 for n, w in call.layer_weights.items()})
        bound = bound.holding(bound.winners(bound.feedforward()))
        if not bound.block.has_feedback or sum(v.numel() for v in bound.feedforward().values()) > 3000:
            continue
        states = relax(bound, Tolerance(1e-13, 2000), differentiation=EXPLICIT).states
        delta = errors(bound, states)
        linear = EXPLICIT.linearise(bound, states)
        d, record = displace(linear, delta, -1.0, Tolerance(1e-9, 500), tangent=True)
        taken.append(record.sweeps)
        assert record.converged
        assert distance(d, tangent_displacement(bound, states, nudge_of(bound, delta))) < 4e-7
    assert taken


@pytest.mark.slow
@given(blocks())
@SEARCH
def test_no_coupling_joins_what_is_eliminated(bound: BoundBlock) -> None:
    division = Division.of(bound.block, {s.name: i for i, s in enumerate(bound.block.states)})
    eliminated, kept = ({s.name for s in part} for part in (division.eliminated, division.kept))
    assert eliminated.isdisjoint(kept)
    assert eliminated | kept == {s.name for s in bound.block.states}
    assert not any(a in eliminated and b in eliminated for a, b in bound.block.edges)
    assert eliminated


def test_products_of_tensors_in_any_order_of_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    orders: list[Tensor] = [a, a.to(memory_format=torch.channels_last), a.transpose(1, 3).contiguous().transpose(1, 3)]
    for first in orders:
        for second in (b, b.to(memory_format=torch.channels_last)):
            assert float(dot(first, second)) == pytest.approx(float((a * b).sum()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_types_are_swept(dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        bound = bound_block(chain(["hardtanh"] * 4, 12), torch.randn(3, 12), 0.9)
    cast = BoundBlock(
        bound.block,
        {k: v.to(dtype) for k, v in bound.inputs.items()},
        {k: v.to(dtype) for k, v in bound.weights.items()},
        bound.layer_weights,
    )
    states, _ = swept(bound, 1e-14, 3000)
    delta = errors(bound, states)
    exact = tangent_displacement(bound, states, nudge_of(bound, delta))
    linear = EXPLICIT.linearise(cast, {n: s.to(dtype) for n, s in states.items()})
    d, record = displace(linear, {n: e.to(dtype) for n, e in delta.items()}, -1.0, Tolerance(None, 500), tangent=True)
    assert all(v.dtype == dtype for v in d.values())
    assert record.converged
    assert distance(d, exact) < (0.3 if dtype == torch.bfloat16 else 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [16, 25, 30])
def test_a_displacement_whose_square_float32_can_not_hold_is_swept(depth: int) -> None:
    """In one deep block a displacement decays by a factor of the loop gain a layer."""
    torch.manual_seed(0)
    net = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(16, 16), nn.Tanh())))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        model = fc.convert(net.to(dtype), block_size=depth, loop_gain=0.125)
        x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        model(x).square().sum().backward()
        gradients.append(next(iter(model.parameters())).grad.double())
    found, exact = gradients
    assert float((found - exact).norm() / exact.norm()) < 5e-3
