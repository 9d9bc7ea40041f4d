"""Estimators on derivatives as code: the gradients of automatic differentiation, and the exact ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from explicit_blocks import calls, errors, wanted
from oracle import Dense
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.estimate import CenteredEP, Estimator, FreePhase, OneSidedEP, TangentEP
from ffebm_compiler.estimate.equilibrium_propagation import energy_gradients
from ffebm_compiler.estimate.literal import nudged_equilibrium
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import AUTOMATIC, Explicit, Tolerance, relax
from ffebm_compiler.train import BlockCall

DISPLACED: dict[str, Estimator] = {
    "centered": CenteredEP(),
    "centered, large nudge": CenteredEP(beta=0.2),
    "one-sided": OneSidedEP(beta=0.2),
    "one-sided, negative": OneSidedEP(beta=0.2, sign=-1),
    "tangent": TangentEP(),
}
SUBTRACTED: dict[str, Estimator] = {
    "centered": CenteredEP(beta=0.5, subtract=True),
    "one-sided": OneSidedEP(beta=0.5, subtract=True),
}


def free_phase(call: BlockCall, tolerance: Tolerance | None = None) -> FreePhase:
    found = relax(call.bound, tolerance or call.tolerance)
    bound = call.bound.holding(found.winners)
    return FreePhase(bound, found.states, found.relaxation, call.tolerance, found.winners)


def close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> bool:
    """Relative to each gradient's own size, and of one that vanishes to the largest."""
    assert list(found) == list(expected)
    largest = max((float(g.abs().amax()) for g in expected.values()), default=0.0)
    return all(
        float((found[n] - g).abs().amax()) <= tolerance * (float(g.abs().amax()) + 1e-3 * largest)
        for n, g in expected.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("estimator", DISPLACED.values(), ids=DISPLACED)
@pytest.mark.parametrize("name", ["mlp_gelu", "vgg_norm", "dense", "tied"])
def test_estimates_are_those_of_automatic_differentiation(name: str, estimator: Estimator) -> None:
    maps = Explicit()
    for call in calls(name):
        free = free_phase(call)
        delta, names = errors(call, free.states), wanted(call)
        expected, found = (estimator(replace(free, differentiation=how), delta, names) for how in (AUTOMATIC, maps))
        assert [r.sweeps for r in found.relaxations] == [r.sweeps for r in expected.relaxations]
        assert close(found.gradients, expected.gradients, 1e-12)


@pytest.mark.parametrize("estimator", SUBTRACTED.values(), ids=SUBTRACTED)
@pytest.mark.parametrize("name", ["mlp", "vgg", "branching"])
def test_literal_phases_are_those_of_automatic_differentiation(name: str, estimator: Estimator) -> None:
    """States and energy gradients to rounding; their difference, to rounding over the nudge's effect."""
    maps = Explicit()
    for call in calls(name):
        free = free_phase(call)
        delta, names = errors(call, free.states), wanted(call)
        states, records = zip(
            *(nudged_equilibrium(replace(free, differentiation=how), delta, 0.5) for how in (AUTOMATIC, maps)),
            strict=True,
        )
        assert records[1].sweeps == records[0].sweeps
        assert close(states[1], states[0], 1e-12)
        slopes = [energy_gradients(free.bound, states[0], names, how) for how in (AUTOMATIC, maps)]
        assert close(slopes[1], slopes[0], 1e-12)
        expected, found = (estimator(replace(free, differentiation=how), delta, names) for how in (AUTOMATIC, maps))
        assert close(found.gradients, expected.gradients, 1e-6)


@pytest.mark.parametrize("name", ["mlp", "conv1d", "branching"])
def test_estimates_are_the_exact_gradients(name: str) -> None:
    tight = Tolerance(1e-14, 2000)
    for call in calls(name):
        free = replace(free_phase(call, tight), tolerance=tight, differentiation=Explicit())
        delta, names = errors(call, free.states), wanted(call)
        exact = Dense()(free, delta, names).gradients
        for estimator in (CenteredEP(), TangentEP()):
            assert close(estimator(free, delta, names).gradients, exact, 1e-6)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_model_trains_on_code_as_on_automatic_differentiation(mixed: bool) -> None:
    """A whole step, digital parts included; in mixed precision to the rounding of bfloat16."""
    net = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh()),
        *(nn.Flatten(), nn.Dropout(0.0), nn.Linear(32, 8), nn.Sigmoid(), nn.Linear(8, 3)),
    )
    x, y = torch.randn(5, 2, 10, 10), torch.randint(0, 3, (5,))
    gradients = []
    for how in (AUTOMATIC, Explicit()):
        model = fc.convert(net, 2)
        runner_of(model).differentiation = how
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss = nn.functional.cross_entropy(model(x).float(), y)
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert all(g.dtype == torch.float32 for g in gradients[1].values())
    assert close(gradients[1], gradients[0], 3e-2 if mixed else 1e-5)
