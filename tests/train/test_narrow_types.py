"""Narrow types: gradients are as near to the exact ones as backpropagation's in the same type, and an overflow is seen.

float16's smallest number is 6e-8: its gradients are those of the limit of a vanishing nudge, computed in float32.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import with_statistics
from torch import Tensor, nn

import ffebm_compiler as fc

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.arange(8) % 5


def network(act: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), act(), nn.Conv2d(8, 8, 3, padding=1), act(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), act(), nn.Flatten(), nn.Linear(128, 16), act(), nn.Linear(16, 5)),
    )


def gradients(model: nn.Module, x: Tensor, mixed: torch.dtype | None = None, scale: float = 1.0) -> dict[str, Tensor]:
    """Of the scaled loss; backward runs outside of the mixed precision, as it should."""
    with torch.autocast("cpu", mixed, enabled=mixed is not None):
        output = model(x)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    (scale * F.cross_entropy(output.to(wide), Y)).backward()
    return {n: p.grad.double().flatten() for n, p in model.named_parameters()}


def exact(model: fc.FFEBM) -> dict[str, Tensor]:
    """Implicit differentiation in float64."""
    reference = copy.deepcopy(model).double()
    with reference.using(estimator=fc.Implicit(), tolerance=1e-12):
        return gradients(reference, X.double())


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return min(float(F.cosine_similarity(found[n], e, dim=0)) for n, e in expected.items())


NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
@pytest.mark.parametrize(
    "estimator", [fc.CenteredEP(), fc.OneSidedEP(), fc.TangentEP()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("mixed", [True, False], ids=["autocast", "narrow"])
@NARROW
def test_the_gradient_is_as_good_as_backpropagations(
    act: type[nn.Module], estimator: Any, mixed: bool, dtype: torch.dtype
) -> None:
    net = network(act)
    model = fc.convert(net, 3, estimator=estimator)
    expected = exact(model)
    plain = copy.deepcopy(net)
    ordinary = worst(gradients(plain, X, dtype), gradients(copy.deepcopy(net).double(), X.double()))
    found = gradients(model, X, dtype) if mixed else gradients(model.to(dtype), X.to(dtype))
    assert all(v.any() for v in found.values())
    assert 1 - worst(found, expected) <= 3 * (1 - ordinary) + 1e-3, "roundings, and what the tolerance leaves"
    assert all(r.converged for r in model.relaxation)
    assert all(r.converged for found in model.nudged_relaxation.values() for r in found)
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32 if mixed else dtype}


@pytest.mark.parametrize(
    "estimator",
    [fc.TangentEP(), fc.CenteredEP(), fc.CenteredEP(subtract=True), fc.OneSidedEP(), fc.Implicit()],
    ids=str,
)
@pytest.mark.parametrize("mixed", [True, False], ids=["autocast", "narrow"])
@NARROW
def test_the_generated_step_computes_the_same(estimator: Any, mixed: bool, dtype: torch.dtype) -> None:
    model = fc.convert(network(nn.Tanh), 3, estimator=estimator)
    model, x = (model, X) if mixed else (model.to(dtype), X.to(dtype))
    with model.using(tolerance=1e-3):
        expected = gradients(copy.deepcopy(model), x, dtype if mixed else None)
        with torch.autocast("cpu", dtype, enabled=mixed):
            model.training_step(x, Y, lambda output, y: F.cross_entropy(output.float(), y))
    found = {n: p.grad.double().flatten() for n, p in model.named_parameters()}
    for n, g in expected.items():
        assert (found[n] - g).norm() <= 2e-2 * g.norm(), n
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32 if mixed else dtype}


def test_states_are_as_narrow_as_the_operations() -> None:
    model = fc.convert(network(nn.ReLU), 3)
    with torch.autocast("cpu", torch.bfloat16):
        output, found = model.equilibrium(X)
    assert {s.dtype for block in found for s in block.states.values()} == {torch.bfloat16} == {output.dtype}
    assert {s.dtype for block in model.equilibrium(X)[1] for s in block.states.values()} == {torch.float32}


@pytest.mark.parametrize("estimator", [fc.Implicit(), fc.Unrolled()], ids=lambda e: type(e).__name__)
def test_float16_by_differentiation(estimator: Any) -> None:
    model = fc.convert(network(nn.Tanh), 3, estimator=estimator)
    assert worst(gradients(copy.deepcopy(model), X, torch.float16), exact(model)) > 0.999
    assert worst(gradients(copy.deepcopy(model).half(), X.half()), exact(model)) > 0.999


@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 2.0**16), (torch.float16, 2.0**12)], ids=str)
def test_the_scale_of_the_loss_does_not_matter(dtype: torch.dtype, scale: float) -> None:
    model = fc.convert(network(nn.Tanh), 3)
    once, scaled = (gradients(copy.deepcopy(model), X, dtype, by) for by in (1.0, scale))
    assert worst(once, scaled) > 0.999
    for n, g in once.items():
        torch.testing.assert_close(scaled[n] / scale, g, rtol=2e-2, atol=2e-2 * float(g.abs().max()))


def test_an_overflow_is_seen_by_the_scaler() -> None:
    """A loss that is scaled beyond float32 leaves no number in the gradients, so the step is skipped and the scale
    lowered.
    """
    model = fc.convert(network(nn.ReLU), 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(X).float(), Y)
    with pytest.warns(fc.ConvergenceWarning, match="If the loss and its gradient are finite"):
        scaler.scale(100 * loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert scaler.get_scale() < 3e38


@NARROW
def test_a_scaler_trains(dtype: torch.dtype) -> None:
    model = fc.convert(network(nn.ReLU), 3)
    optimizer, scaler = torch.optim.Adam(model.parameters(), 0.01), torch.amp.GradScaler("cpu")
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = F.cross_entropy(model(X).float(), Y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_states_in_two_precisions_stop_at_the_coarser_one() -> None:
    """A held norm gives float32 under autocast, a convolution bfloat16."""
    torch.manual_seed(0)
    layers = [
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Tanh(),
    ]
    model = fc.convert(with_statistics(nn.Sequential(*layers)).eval(), 3, norm="held", loop_gain=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        _, (found,) = model.equilibrium(X)
        model(X).float().square().sum().backward()
    assert {s.dtype for s in found.states.values()} == {torch.float32, torch.bfloat16}
    assert found.relaxation.converged
    assert found.relaxation.sweeps <= 4, "not on to a fixed point of the roundings"
