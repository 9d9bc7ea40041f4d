"""Where a relaxation ends, it is within its tolerance: against equilibria and displacements found to the last digit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.solve import Tolerance, displace, relax
from ffebm_compiler.solve.conjugate_gradients import SLOW
from ffebm_compiler.solve.derivatives.explicit import EXPLICIT

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (torch.relu, torch.tanh, nn.functional.hardtanh, torch.sigmoid)


class Layers(nn.Module):
    """Dense layers, the first one's activations added to the third layer's where the widths allow."""

    def __init__(self, widths: list[int], activations: list[int]):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
        self.activations = [ACTIVATIONS[i] for i in activations]
        self.skips = len(widths) > 3 and widths[1] == widths[3]

    def forward(self, x: Tensor) -> Tensor:
        passed: list[Tensor] = []
        for i, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            h = layer(x)
            if i == 2 and self.skips:
                h = h + passed[0]
            passed.append(x := activation(h))
        return x


@dataclass
class Drawn:
    """A random block in float64 with its equilibrium, and the tolerance to try."""

    model: fc.FFEBM
    x: Tensor
    states: dict[str, Tensor]
    tolerance: float
    generator: torch.Generator

    @staticmethod
    def of(seed: int) -> Drawn:
        generator = torch.Generator().manual_seed(seed)

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        def whole(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        depth = whole(2, 8)
        widths = [whole(1, 9) for _ in range(depth + 1)]
        if depth > 2 and uniform(0, 1) < 0.4:
            widths[3] = widths[1]
        net = Layers(widths, [0 if uniform(0, 1) < 0.4 else whole(0, 4) for _ in range(depth)]).double()
        with torch.no_grad():
            for layer in net.layers:
                for p, (low, high) in zip(layer.parameters(), ((-2, 1), (-2, 2)), strict=True):
                    p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 10 ** uniform(low, high))
        gain = (0.01, 0.01, 0.05, 0.1, 0.2)[whole(0, 5)]
        tolerance = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 4e-6, 1e-8)[whole(0, 7)]
        x = torch.randn(whole(1, 4), widths[0], generator=generator, dtype=torch.float64)
        model = fc.convert(net, depth, loop_gain=gain, tolerance=1e-14, max_sweeps=2000, verify=False).eval()
        _, (settled,) = model.equilibrium(x)
        return Drawn(model, x, dict(settled.states), tolerance, generator)

    def errors(self, last: str) -> dict[str, Tensor]:
        """Errors of very different sizes, at the last state and at some others."""

        def uniform() -> float:
            return float(torch.rand((), generator=self.generator))

        return {
            n: 10 ** (4 * uniform() - 3) * torch.randn(s.shape, generator=self.generator, dtype=s.dtype)
            for n, s in self.states.items()
            if n == last or uniform() < 0.3
        }


def farthest(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest relative error of a state, as residuals are measured."""
    return max(float((found[n] - s).abs().max() / s.abs().max().clamp(min=1e-300)) for n, s in exact.items())


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_blocks_converge_within_their_tolerance(first: int) -> None:
    """Were a first sweep to do for blocks of any size, about one in a thousand would be off by ten times that."""
    for seed in range(first, first + 50):
        drawn = Drawn.of(seed)
        with drawn.model.using(tolerance=drawn.tolerance):
            _, (found,) = drawn.model.equilibrium(drawn.x)
        assert found.relaxation.converged
        assert farthest(dict(found.states), drawn.states) <= drawn.tolerance + 1e-13, seed


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(50), range(50, 100), (596, 1063)])
def test_random_displacements_converge_within_their_tolerance(seeds: Sequence[int]) -> None:
    """Swept ones, of nudges at some states: in the last two a large nudge reaches a small one late."""
    for seed in seeds:
        drawn = Drawn.of(seed)
        (block,) = drawn.model.program.energy_blocks
        bound = drawn.model.block_call(block, {block.inputs[0]: drawn.x}).bound
        if bound.contraction is None or bound.contraction > SLOW:
            continue  # solved by conjugate gradients
        linear = EXPLICIT.linearise(bound, drawn.states)
        errors = drawn.errors(block.states[-1].name)
        exact, _ = displace(linear, errors, 1e-3, Tolerance(1e-15, 3000), tangent=True)
        found, record = displace(linear, errors, 1e-3, Tolerance(drawn.tolerance), tangent=True)
        assert record.converged
        assert farthest(found, exact) <= Tolerance(drawn.tolerance).nudged(torch.float64) + 1e-13, seed


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 99),
    gain=st.sampled_from([0.01, 0.1, 0.2]),
    bias=st.floats(0, 30),
)
def test_the_first_sweep_of_two_states_bounds_what_is_left(
    sizes: tuple[int, int], seed: int, gain: float, bias: float
) -> None:
    """Each is off by at most ``rho / (1 - rho)`` times what it was moved by, in the Euclidean norm."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, sizes[0]), nn.ReLU(), nn.Linear(*sizes), nn.ReLU()).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        for layer in net[::2]:
            layer.bias.mul_(bias)
    model = fc.convert(net, block_size=2, loop_gain=gain, tolerance=1e-14).eval()
    x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    _, (settled,) = model.equilibrium(x)
    (block,) = model.program.energy_blocks
    bound = model.block_call(block, {block.inputs[0]: x}).bound
    assert bound.contraction is not None
    start = bound.detached().feedforward()
    after = relax(bound, Tolerance(residual=torch.inf, max_sweeps=1), None, EXPLICIT)
    assert after.relaxation.sweeps == 1
    factor = bound.contraction / (1 - bound.contraction)
    for n, s in settled.states.items():
        moved = float((after.states[n] - start[n]).norm())
        assert float((after.states[n] - s).norm()) <= factor * moved * (1 + 1e-9) + 1e-11 * (1 + float(s.norm()))


def test_states_given_to_start_from_are_not_taken_for_settled() -> None:
    """Behind a weak coupling the second state hardly moves, whatever it begins with, and is fed back: one sweep's
    residual says too little.
    """
    torch.manual_seed(0)
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    with torch.no_grad():
        second.weight.mul_(1e-3 / torch.linalg.matrix_norm(second.weight, 2))
        second.bias.uniform_(10, 20)
    model = fc.convert(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), block_size=2).double().eval()
    x = torch.randn(4, 16, dtype=torch.float64)
    with model.using(tolerance=1e-14):
        _, (settled,) = model.equilibrium(x)
    (block,) = model.program.energy_blocks
    bound = model.block_call(block, {block.inputs[0]: x}).bound
    hidden, output = (s.name for s in block.states)
    start = {hidden: settled.states[hidden], output: settled.states[output] * 1.0003}
    found = relax(bound, Tolerance(residual=4e-6), start, EXPLICIT)
    errors = [float((found.states[n] - s).abs().max() / s.abs().max()) for n, s in settled.states.items()]
    assert found.relaxation.converged
    assert max(errors) <= 4e-6


@pytest.mark.parametrize(
    ("layers", "tolerance"),
    [
        (((0, 1), (0.3, 1), (0.3, 1)), 1e-3),
        (((0, 1), (1e-2, 1), (1e-2, 100)), 1e-3),
        (((0, 1), (1e-3, 1), (1e-3, 1e4)), 4e-6),
    ],
)
def test_what_a_later_state_feeds_back_is_waited_for(layers: tuple[tuple[float, float], ...], tolerance: float) -> None:
    """In a chain of three the second one's first move reaches the first one in the second sweep, and the residual of
    the first one says too little.
    """
    net = nn.Sequential(*[m for _ in layers for m in (nn.Linear(4, 4), nn.ReLU())]).double()
    with torch.no_grad():
        for layer, (weight, bias) in zip(net[::2], layers, strict=True):
            layer.weight.copy_(weight * torch.eye(4))
            layer.bias.fill_(bias)
    model = fc.convert(net, block_size=3).eval()
    x = torch.zeros(1, 4, dtype=torch.float64)
    with model.using(tolerance=1e-14):
        _, (exact,) = model.equilibrium(x)
    with model.using(tolerance=tolerance):
        _, (found,) = model.equilibrium(x)
    errors = [float((found.states[n] - s).abs().max() / s.abs().max()) for n, s in exact.states.items()]
    assert found.relaxation.converged
    assert max(errors) <= found.relaxation.residual <= tolerance


def test_a_displacement_given_to_start_from_is_not_taken_for_settled() -> None:
    """A backward sweep begins with the last state, which reads the first one as it is given; nudged much less, it is
    off by more than the first one's change tells.
    """
    torch.manual_seed(0)
    model = fc.convert(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()), block_size=2)
    model, x = model.double().eval(), torch.randn(4, 16, dtype=torch.float64)
    _, (settled,) = model.equilibrium(x)
    (block,) = model.program.energy_blocks
    linear = EXPLICIT.linearise(model.block_call(block, {block.inputs[0]: x}).bound, settled.states)
    first, last = (s.name for s in block.states)
    errors = {first: torch.randn(4, 16, dtype=torch.float64), last: 1e-6 * torch.randn(4, 16, dtype=torch.float64)}
    exact, _ = displace(linear, errors, 1e-3, Tolerance(1e-13), tangent=True)
    start = {first: exact[first] * 1.001, last: exact[last]}
    found, record = displace(linear, errors, 1e-3, Tolerance(1e-6), tangent=True, start=start)
    assert record.converged
    off = max(float((found[n] - d).abs().max() / d.abs().max()) for n, d in exact.items())
    assert off <= Tolerance(1e-6).nudged(torch.float64)
