"""The free phase: it descends the energy, ends at the one equilibrium of a convex block, and says how it ended."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import models
import pytest
import torch
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler.ir import Energy
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import (
    AUTOMATIC,
    EXPLICIT,
    BoundBlock,
    Differentiation,
    States,
    Tolerance,
    certify,
    relax,
    unit_gains,
)
from ffebm_compiler.solve.iteration import largest_ratio

NETS: dict[str, Callable[[], nn.Module]] = {
    **{
        a.__name__: functools.partial(models.mlp, a, (6, 8, 7, 8, 5))
        for a in (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.ELU, nn.Softplus)
    },
    "branching": models.Branching,
}


def bound(name: str, loop_gain: float | None = 0.2, scale: float = 1.0) -> tuple[BoundBlock, dict[str, str]]:
    """The first block with feedback of a net, in float64, with its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net, x = NETS[name]().double(), torch.randn(4, 6, dtype=torch.float64)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
    model = fc.convert(net, block_size=8, loop_gain=loop_gain, max_sweeps=3)
    (found,) = [b for b in model.equilibrium(x)[1] if _view(model, b.block).block.has_feedback]
    view = _view(model, found.block)
    weights = {k: v.detach() for k, v in model.named_parameters()}
    gains = unit_gains(view.block) if loop_gain is None else runner_of(model).gains(view.block)
    return BoundBlock(view.block, found.inputs, weights, gains.layer_weights), model.program.labels


def _view(model: fc.FFEBM, name: str):
    return next(v for v in model.blocks if v.name == name)


def random_states(b: BoundBlock, seed: int) -> States:
    generator = torch.Generator().manual_seed(seed)
    return {
        s.name: s.potential.activation(3 * torch.randn(v.shape, generator=generator, dtype=v.dtype))
        for s, v in zip(b.block.states, b.feedforward().values(), strict=True)
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("loop_gain", [0.2, None])
def test_no_sweep_raises_the_energy(name: str, loop_gain: float | None) -> None:
    """Each state in its turn minimises the energy, whatever the gains, converging or not."""
    b, labels = bound(name, loop_gain)
    energy = Energy(b.block, labels)
    start = random_states(b, 0)

    def value(states: States) -> float:
        return float(energy.value(states, b.inputs, b.weights, b.layer_weights))

    values = [value(start), *(value(relax(b, Tolerance(1e-300, k), start).states) for k in range(1, 12))]
    assert values[1] < values[0] - 1e-3
    assert all(after <= before + 1e-9 * abs(before) for before, after in itertools.pairwise(values))


@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", NETS)
def test_a_convex_block_has_one_equilibrium(name: str) -> None:
    b, _ = bound(name, 0.1)
    found = relax(b, Tolerance(None, 2000))
    assert found.relaxation.converged
    for seed in range(5):
        other = relax(b, Tolerance(None, 2000), random_states(b, seed))
        assert other.relaxation.converged
        assert all(torch.allclose(other.states[k], v, rtol=1e-9, atol=1e-11) for k, v in found.states.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("name", NETS)
def test_the_tolerance_bounds_the_distance_to_the_equilibrium(name: str, tolerance: float) -> None:
    b, _ = bound(name, 0.24)
    exact = relax(b, Tolerance(1e-14, 5000)).states
    found = relax(b, Tolerance(tolerance, 5000))
    assert found.relaxation.converged
    assert found.relaxation.residual <= tolerance
    worst = max(float((found.states[k] - v).abs().max() / v.abs().max()) for k, v in exact.items())
    assert worst <= 3 * tolerance


@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
def test_not_to_converge_is_a_result() -> None:
    b, _ = bound("Tanh", 0.2)
    found = relax(b, Tolerance(None, 2)).relaxation
    assert (found.sweeps, found.converged) == (2, False)
    assert 0 < found.residual < math.inf


@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
def test_a_diverging_block_is_told_from_a_slow_one() -> None:
    b, _ = bound("ReLU", None, scale=5.0)
    found = relax(b, Tolerance(None, 500)).relaxation
    assert not found.converged
    assert math.isinf(found.residual)
    assert found.sweeps < 500


def test_blocks_without_feedback_take_one_pass() -> None:
    net, x = models.mlp(), torch.randn(3, 8)
    model = fc.convert(net, block_size=1)
    model(x)
    assert [(r.sweeps, r.residual, r.converged) for r in model.relaxation] == [(1, 0.0, True)] * 4


def test_the_certificate_names_what_stands_against_it() -> None:
    torch.manual_seed(0)
    for net, x, convex, word in (
        (models.mlp(nn.ReLU), torch.randn(3, 8), True, "strictly convex"),
        (models.mlp(nn.GELU), torch.randn(3, 8), False, "smooth"),
        (models.vgg(), torch.randn(2, 3, 8, 8), False, "winners"),
    ):
        model = fc.convert(net, block_size=3)
        model(x)
        found = [certify(v.block, runner_of(model).gains(v.block)) for v in model.blocks if v.block.has_feedback]
        assert found[0].convex is convex
        assert word in found[0].reason


def test_the_tolerance_of_a_coarse_type_is_still_one() -> None:
    """32 roundings of bfloat16 would be a quarter of the state."""
    assert Tolerance().of(torch.bfloat16) <= 0.03
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.randn(4, 6)
    fine, coarse = fc.convert(net, 3, loop_gain=0.24).eval(), fc.convert(net.bfloat16(), 3, loop_gain=0.24).eval()
    with torch.no_grad():
        exact, found = fine(x), coarse(x.bfloat16()).float()
    assert coarse.relaxation[0].converged
    assert float((found - exact).abs().max() / exact.abs().max()) < 0.03


@pytest.mark.parametrize("maps", [AUTOMATIC, EXPLICIT], ids=["automatic", "explicit"])
def test_states_given_to_start_from_stay_as_they_are(maps: Differentiation) -> None:
    torch.manual_seed(0)
    model, x = fc.convert(models.vgg(), block_size=2).eval(), torch.randn(2, 3, 8, 8)
    _, found = model.equilibrium(x)
    for settled in found:
        block = _view(model, settled.relaxation.block).block
        start = {n: s.clone() for n, s in settled.states.items()}
        again = relax(model.block_call(block, settled.inputs).bound, Tolerance(), start, maps)
        assert again.relaxation.converged
        assert all(torch.equal(start[n], s) for n, s in settled.states.items())


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ([(2.0, 0.5), (1.0, 0.5)], 0.5),
        ([], 0.0),
        ([(0.0, 0.0)], 0.0),
        ([(1e-300, 1e-300)], 1e-262),
        ([(math.inf, 1.0)], math.inf),
        ([(math.nan, 0.0), (1.0, 0.5)], math.inf),
        ([(1.0, math.nan), (1.0, 0.5)], math.inf),
        ([(1e31, 1.0)], math.inf),
    ],
)
def test_a_state_out_of_bounds_or_no_number_is_infinitely_far(
    peaks: list[tuple[float, float]], expected: float
) -> None:
    assert largest_ratio(peaks) == pytest.approx(expected)
