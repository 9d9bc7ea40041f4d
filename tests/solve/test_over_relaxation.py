"""Over-relaxed sweeps: Young's theory on matrices, and the same equilibria as plain sweeps, in fewer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import mlp
from strong_blocks import ACTIVATIONS, Skips, blocks, bound_block, chain, distance, swept
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ffebm_compiler as fc
from ffebm_compiler.solve import EXPLICIT, BoundBlock, Tolerance, differentiable_sweep, relax
from ffebm_compiler.solve.over_relaxation import (
    MOST,
    Pace,
    best_omega,
    contraction_of,
    overshot,
    plain_contraction,
)

SEARCH = settings(max_examples=40, deadline=None, derandomize=True)


def radius(coupling: float, size: int, omega: float) -> float:
    """What sweeps at omega leave of a chain of scalars, each coupled to the next: the spectral radius of their
    matrix.
    """
    upper = np.diag([coupling] * (size - 1), 1)
    step = np.linalg.solve(np.eye(size) - omega * upper.T, (1 - omega) * np.eye(size) + omega * upper)
    return float(np.abs(np.linalg.eigvals(step)).max())


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("coupling", [0.3, 0.45])
def test_the_best_omega_and_what_it_leaves(coupling: float, size: int) -> None:
    rho = radius(coupling, size, 1.0)
    omega = best_omega(rho)
    assert radius(coupling, size, omega) == pytest.approx(
        omega - 1, rel=1e-3
    )  # a double eigenvalue: half of the digits
    assert all(radius(coupling, size, omega + d) > omega - 1 for d in (-0.02, 0.02))
    assert contraction_of(omega) == pytest.approx(rho)


@given(st.floats(0.05, 0.49), st.integers(2, 7), st.floats(0.0, 0.95))
@SEARCH
def test_the_plain_contraction_shows_at_any_smaller_omega(coupling: float, size: int, part: float) -> None:
    rho = radius(coupling, size, 1.0)
    omega = 1 + part * (best_omega(rho) - 1)
    assert plain_contraction(radius(coupling, size, omega), omega) == pytest.approx(rho, rel=1e-6)


def test_a_pace_finds_the_best_omega_of_a_linear_chain() -> None:
    coupling, size = 0.49, 6
    upper, state, pace = np.diag([coupling] * (size - 1), 1), np.ones(size), Pace()
    for _ in range(60):
        omega = pace.omega
        new = np.linalg.solve(np.eye(size) - omega * upper.T, (1 - omega) * state + omega * upper @ state)
        pace.after(float(np.abs(new - state).max()))
        state = new
    best = best_omega(radius(coupling, size, 1.0))
    assert best - 0.1 < pace.omega < best + 0.12


def test_plain_sweeps_tell_the_last_ratio() -> None:
    pace = Pace(limit=1.0)
    assert [pace.after(r) for r in (1.0, 0.9, 0.45, 0.9)] == pytest.approx([0.0, 0.9, 0.5, 2.0])
    assert pace.omega == 1.0
    assert not pace.brake()


def test_weak_feedback_is_swept_plainly() -> None:
    pace = Pace()
    for k in range(20):
        pace.after(0.25**k)
        assert pace.omega == 1.0


def test_a_residual_that_no_longer_falls_ends_over_relaxation() -> None:
    pace, highest = Pace(), 1.0
    for k in range(200):
        pace.after(max(0.8**k, 1e-4))
        highest = max(highest, pace.omega)
    assert 1.2 < highest <= MOST
    assert pace.omega == 1.0


def test_plain_sweeps_after_over_relaxed_ones_are_not_taken_at_their_word() -> None:
    pace = Pace()
    for k in range(30):
        pace.after(0.9**k)
    omega = pace.omega
    assert omega > 1.0
    assert pace.brake()
    assert pace.omega == 1.0
    assert pace.after(0.1 * 0.9**29) >= contraction_of(omega) - 1e-12
    assert not pace.brake()


@pytest.mark.slow
@given(blocks(), st.sampled_from([1e-4, 1e-8]))
@SEARCH
def test_an_equilibrium_within_the_tolerance(bound: BoundBlock, tolerance: float) -> None:
    exact, _ = swept(bound, tolerance, 300)
    found = relax(bound, Tolerance(tolerance, 3000), differentiation=EXPLICIT)
    for s in bound.block.states:
        assert s.potential.lower <= float(found.states[s.name].min())
        assert float(found.states[s.name].max()) <= s.potential.upper
    if found.relaxation.converged:
        again = {n: s.detach() for n, s in differentiable_sweep(bound, found.states).items()}
        assert distance(found.states, again) <= 2 * tolerance
        near = distance(found.states, exact)
        assert near <= 3 * tolerance or near > 1e-2  # or it is another equilibrium


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
@pytest.mark.parametrize("name", ["chain", "skips"])
def test_strong_feedback_takes_fewer_sweeps(name: str, tolerance: float) -> None:
    """On the whole; for a chain in no case many more."""
    pairs = []
    for seed in range(12):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            activation = ["clamp", "hardtanh", "tanh", "relu6"][seed % 4]
            nets = {"chain": chain([activation] * 4, 10), "skips": Skips(ACTIVATIONS[activation], 10, 4)}
            bound = bound_block(nets[name], torch.randn(2, 10), {"chain": 1.0, "skips": 0.45}[name])
        found = relax(bound, Tolerance(tolerance, 3000), differentiation=EXPLICIT).relaxation
        pairs.append((swept(bound, tolerance, 3000)[1], found.sweeps))
    plain, over = (sum(k) for k in zip(*pairs, strict=True))
    assert over < {"chain": 0.6, "skips": 0.9}[name] * plain
    assert name == "skips" or all(over <= plain + 3 for plain, over in pairs)


def test_overshooting_stays_in_the_domain_and_leaves_a_simplex_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bound = bound_block(chain(["clamp", "softmax", "leaky"]), torch.randn(2, 6))
    clamp, softmax, leaky, *_ = (s.potential for s in bound.block.states)
    old, new = torch.tensor([0.5, 0.5, 0.2]), torch.tensor([0.9, 0.1, 0.3])
    expected = torch.tensor([1.0, 0.0, 0.35])
    torch.testing.assert_close(overshot(clamp, old, new, 1.5, overwrite=False), expected)
    torch.testing.assert_close(overshot(leaky, old, new, 1.5, overwrite=False), old + 1.5 * (new - old))
    assert overshot(softmax, old, new, 1.5, overwrite=True) is new
    assert torch.equal(new, torch.tensor([0.9, 0.1, 0.3]))
    assert overshot(clamp, old, new, 1.5, overwrite=True) is new


class Tie(nn.Module):
    """Feedback through a negative weight pushes the winner of a maximum below the next: winners go back and forth."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 1, 1, bias=False), nn.Conv1d(1, 1, 1)
        with torch.no_grad():
            self.first.weight.fill_(1.0)
            self.second.weight.fill_(weight)
            self.second.bias.fill_(2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.max_pool1d(torch.relu(self.first(x)), 2)))


@pytest.mark.parametrize("weight", [-0.6, -0.8, -0.9])
def test_a_tie_is_still_held(weight: float) -> None:
    bound = bound_block(Tie(weight), torch.tensor([[[1.0, 0.999]], [[1.0, 0.3]]]))
    found = relax(bound, Tolerance(1e-9, 500))
    assert found.relaxation.held
    assert found.relaxation.converged
    held = bound.holding(found.winners)
    exact, _ = swept(held, 1e-9, 3000)
    assert distance(found.states, exact) < 1e-8


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_bounded_feedback_is_swept_as_ever() -> None:
    """No pass over memory is added where gains certify a quick contraction."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = fc.convert(mlp(nn.ReLU), 4), torch.randn(3, 8)
    with torch.no_grad():
        model(x)
        with Operations() as seen:
            model(x)
    (record,) = [r for r in model.relaxation if r.sweeps > 1] or model.relaxation
    assert record.sweeps == 2
    assert "aten::lerp.Scalar_out" not in seen.names
