"""Maxima over states: the winners follow while a block settles, and are held where it would go back and forth
for ever.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from strong_blocks import Tie
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ffebm_compiler as fc
from ffebm_compiler.ir import Energy
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.rules import RULES
from ffebm_compiler.solve import Tolerance, relax

X = torch.tensor([[[1.0, 0.999]]])


CERTIFIED, NOT_CERTIFIED = 0.05, 0.83
"""Loop gains: winners are held from the start, or where they go back and forth."""


@pytest.mark.parametrize("loop_gain", [CERTIFIED, NOT_CERTIFIED])
def test_a_tie_settles_and_its_gradient_is_that_of_the_held_energy(loop_gain: float) -> None:
    model = fc.convert(Tie(), block_size=2, loop_gain=loop_gain).double()
    x = X.double().requires_grad_()
    model(x).sum().backward()
    assert all(r.converged and r.held for r in model.relaxation)
    exact = {n: p.grad.clone() for n, p in model.named_parameters()}
    held = x.grad.clone()
    model.zero_grad()
    with model.using(estimator=fc.Implicit()):
        x.grad = None
        model(x).sum().backward()
    assert all(torch.allclose(p.grad, exact[n], rtol=1e-6) for n, p in model.named_parameters())
    assert torch.allclose(x.grad, held, rtol=1e-6)


@pytest.mark.parametrize("loop_gain", [CERTIFIED, NOT_CERTIFIED])
def test_without_a_tie_the_winners_are_those_of_the_equilibrium(loop_gain: float) -> None:
    """At the equilibrium the energy with its own maxima, not held ones, is stationary."""
    model = fc.convert(Tie(), block_size=2, loop_gain=loop_gain).double()
    _, (found,) = model.equilibrium(torch.tensor([[[1.9, 0.1]]], dtype=torch.float64))
    assert found.relaxation.held == (loop_gain == CERTIFIED)
    states = {k: v.clone().requires_grad_() for k, v in found.states.items()}
    gradients = torch.autograd.grad(model.blocks[0].energy.value(states, found.inputs), list(states.values()))
    assert all(g[s > 0].abs().max() < 1e-9 for g, s in zip(gradients, states.values(), strict=True))


class Shared(nn.Module):
    """One maximum that two states read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = (nn.Conv1d(1, 1, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool1d(F.relu(self.stem(x)), 2)
        return F.relu(self.right(F.relu(self.left(pooled))) + pooled)


@pytest.mark.parametrize("loop_gain", [CERTIFIED, 0.2])
def test_a_maximum_that_two_states_read_has_the_same_winners_in_both(loop_gain: float) -> None:
    torch.manual_seed(1)
    model = fc.convert(Shared(), block_size=3, loop_gain=loop_gain).double()
    x = torch.randn(4, 1, 6, dtype=torch.float64).requires_grad_()
    model(x).square().sum().backward()
    found = [x.grad.clone(), *(p.grad.clone() for p in model.parameters())]
    model.zero_grad()
    x.grad = None
    with model.using(estimator=fc.Implicit()):
        model(x).square().sum().backward()
    exact = [x.grad, *(p.grad for p in model.parameters())]
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("max_pool1d", dict(kernel_size=3, stride=2, padding=1)),
        ("max_pool2d", dict(kernel_size=(2, 3), stride=1, ceil_mode=True)),
        ("max_pool2d", dict(kernel_size=2, dilation=2)),
        ("max_pool3d", dict(kernel_size=2, stride=None, padding=1)),
        ("adaptive_max_pool1d", dict(output_size=3)),
        ("adaptive_max_pool2d", dict(output_size=(2, 3))),
        ("adaptive_max_pool3d", dict(output_size=2)),
    ],
)
def test_a_maximum_with_its_winners_held_is_the_same_and_linear(rule: str, options: dict) -> None:
    (found,) = (r for r in RULES if r.name == rule)
    make, shape = found.examples[0]
    layer = type(make())(**options)
    model = fc.convert(_between(layer, shape), block_size=2)
    (term,) = [t for b in model.blocks for s in b.block.states for t in s.drive.terms if t.operation.routed]
    operation = term.operation
    a = torch.randn(shape, dtype=torch.float64)
    winners = operation.choose(a, **operation.options)
    held = operation.held()
    assert torch.equal(held(a, winners), operation(a))
    b = torch.randn(shape, dtype=torch.float64)
    assert torch.allclose(held(2 * a - b, winners), 2 * held(a, winners) - held(b, winners))
    assert held.linear
    assert not held.routed


def _between(layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    dimensions = len(shape) - 2
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    return nn.Sequential(conv(shape[1], shape[1], 1), nn.ReLU(), layer, conv(shape[1], 2, 1))


def test_a_feedback_that_raises_the_winner_leaves_it_the_lowest_energy_of_all_choices() -> None:
    """The winner of the feedforward pass is then held without any loss: every other choice settles higher."""
    net = Tie()
    with torch.no_grad():
        net.second.weight.fill_(1.0)
        net.second.bias.fill_(-0.2)
    model = fc.convert(net, block_size=2, loop_gain=CERTIFIED).double()
    x = torch.tensor([[[1.0, 0.97]]], dtype=torch.float64)
    _, (found,) = model.equilibrium(x)
    (bound,) = (runner_of(model).bound(b, {b.inputs[0]: x}) for b in model.program.energy_blocks)
    bound = bound.with_layer_weights(runner_of(model).gains(bound.block).layer_weights)
    (name,) = bound.winners(found.states)
    energies = []
    for winner in (0, 1):
        held = bound.holding({name: torch.tensor([[[winner]]])})
        states = relax(held, Tolerance(1e-12)).states
        energies.append(Energy(held.block, {}).value(states, held.inputs, held.weights, held.layer_weights))
    assert energies[0] < energies[1]
    assert torch.equal(bound.winners(found.states)[name], torch.tensor([[[0]]]))


def test_winners_need_nothing_behind_the_last_maximum() -> None:
    """They are found without the product that follows them."""
    net = nn.Sequential(nn.Conv1d(1, 3, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(3, 2, 2), nn.ReLU())
    model = fc.convert(net, block_size=2).double()
    x = torch.randn(4, 1, 6, dtype=torch.float64)
    _, (settled,) = model.equilibrium(x)
    (block,) = [b for b in model.program.energy_blocks if b.is_routed]
    bound = runner_of(model).bound(block, {n: x for n in block.inputs})
    (routed,) = [s for s in block.states if s.drive.is_routed]
    _, expected = bound.routed_drive(routed, settled.states)
    found = replace(bound, weights={}).winners_of(routed, settled.states)
    assert found.keys() == expected.keys() != set()
    assert all(torch.equal(found[n], w) for n, w in expected.items())
    assert bound.winners_of(block.states[0], settled.states) == {}


class Convolutions(TorchDispatchMode):
    """How often a convolution, and its transpose, are run."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_pooled_product_is_not_computed_twice_to_find_its_winners() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU())
    model, x = fc.convert(net, block_size=2).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        model(x)  # gains, and code
        with Convolutions() as run:
            model(x)
    (record,) = model.relaxation
    assert record.held
    assert run.count["convolution"] == 2 + record.sweeps  # once each, and once a sweep
    assert run.count["convolution_backward"] == record.sweeps
