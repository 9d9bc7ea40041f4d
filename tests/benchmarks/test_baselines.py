"""Each baseline's gradient against an oracle that knows nothing but the printed energy; the sweeps against the energy
itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Dense
from torch import Tensor, nn

import ffebm_compiler as fc
from benchmarks.baselines import chain, sweeps
from benchmarks.baselines.automatic import Recorded
from benchmarks.baselines.deep_equilibrium import DeepEquilibrium, installed
from benchmarks.baselines.paper import PaperSchedule
from ffebm_compiler.compare import loss_gradients
from ffebm_compiler.ir import Energy
from ffebm_compiler.solve import BoundBlock, States


class Skips(nn.Module):
    """Three states, of which the last reads both others: no two of them may be updated together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.c(torch.relu(self.b(h) + 0.5 * h))  # type: ignore[no-any-return]


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(3, 2, 3, padding=1),
        nn.Hardtanh(0.0, 1.0),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def split() -> nn.Module:
    """Two blocks with a batch norm between: gradients go through a digital part."""
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.Tanh(),
        nn.Linear(6, 6),
        nn.Tanh(),
        nn.BatchNorm1d(6),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "skips": (Skips, (4, 4), 3),
    "convolutions": (convolutions, (4, 1, 4, 4), 3),
    "split": (split, (5, 4), 2),
}
WAYS: dict[str, tuple[Any, float]] = {
    "paper": (PaperSchedule(300, 300, 1e-4), 1e-5),
    "recorded": (Recorded(200), 1e-8),
    "torchdeq": (
        DeepEquilibrium(1e-12, 1e-12, 500, "fixed_point_iter", "fixed_point_iter"),
        1e-8,
    ),
}


def converted(name: str) -> tuple[fc.FFEBM, Tensor, Tensor]:
    build, shape, size = NETWORKS[name]
    net = build().double()
    x = torch.randn(shape, dtype=torch.float64)
    model = fc.convert(net, block_size=size, loop_gain=0.2, tolerance=1e-13, max_sweeps=1000).train()
    model.ensure_gains(x)
    return model, x, torch.randint(0, 3, shape[:1])


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("way", WAYS)
def test_its_gradient_is_the_exact_one(way: str, network: str) -> None:
    if way == "torchdeq" and not installed():
        pytest.skip("torchdeq is not installed")
    operator, tolerance = WAYS[way]
    model, x, y = converted(network)
    loss = nn.functional.cross_entropy
    own = copy.deepcopy(model)
    loss(chain.run(own, x, chain.settled_by(own, operator)), y).backward()
    with model.using(estimator=Dense()):
        exact = loss_gradients(model, x, y, loss)
    largest = max(float(e.norm()) for e in exact.values())
    for name, parameter in own.named_parameters():
        assert parameter.grad is not None, name
        assert float((parameter.grad - exact[name]).norm()) < tolerance * largest, name


@pytest.mark.slow
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 1000))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_no_part_of_a_sweep_raises_the_energy(network: str, seed: int) -> None:
    torch.manual_seed(seed)
    model, x, _ = converted(network)
    seen: list[tuple[BoundBlock, States]] = []

    def watching(bound: BoundBlock) -> States:
        states = {
            s.name: s.potential.activation(2 * torch.randn_like(v))
            for s, v in zip(bound.block.states, bound.feedforward().values(), strict=True)
        }
        seen.append((bound, states))
        return bound.feedforward()

    with torch.no_grad():
        chain.run(model, x, chain.settled_by(model, watching))
    for bound, states in seen:
        value = partial(
            Energy(bound.block, {}).value,
            inputs=bound.inputs,
            weights=bound.weights,
            layer_weights=bound.layer_weights,
        )
        before = float(value(states).detach())
        for names in sweeps.colours(bound.block):
            states = sweeps.part(bound, states, names)
            after = float(value(states).detach())
            assert after <= before + 1e-12 * abs(before)
            before = after


def test_a_chain_has_an_even_and_an_odd_part() -> None:
    model = fc.convert(nn.Sequential(*(m for _ in range(5) for m in (nn.Linear(3, 3), nn.Tanh()))), block_size=5)
    (block,) = model.program.energy_blocks
    names = [s.name for s in block.states]
    assert sweeps.colours(block) == (tuple(names[::2]), tuple(names[1::2]))


def test_states_that_share_a_coupling_are_apart() -> None:
    (block,) = fc.convert(Skips(), block_size=3).program.energy_blocks
    colour = {n: i for i, names in enumerate(sweeps.colours(block)) for n in names}
    assert block.edges
    assert all(colour[a] != colour[b] for a, b in block.edges)


def test_an_error_of_zero_gives_a_gradient_of_zero() -> None:
    model, x, _ = converted("skips")
    (0 * chain.run(model, x, chain.settled_by(model, PaperSchedule(5, 5)))).sum().backward()
    assert all(not p.grad.any() for p in model.parameters())
