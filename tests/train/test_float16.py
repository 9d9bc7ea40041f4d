"""float16, whose smallest number is 6e-8: gradients are those of the limit of a vanishing nudge, as good as backpropagation's in float16."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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


def gradients(model: nn.Module, x: Tensor, scale: float = 1.0, mixed: bool = False) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.float16, enabled=mixed):
        output = model(x)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    (scale * F.cross_entropy(output.to(dtype), Y)).backward()
    return {n: p.grad.double().flatten() / scale for n, p in model.named_parameters()}


def worst(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    return min(float(F.cosine_similarity(found[n], e, dim=0)) for n, e in exact.items())


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
@pytest.mark.parametrize(
    "estimator", [fc.CenteredEP(), fc.OneSidedEP(), fc.TangentEP()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("mixed", [True, False], ids=["autocast", "half"])
def test_gradients_are_those_of_the_equilibrium(act: type[nn.Module], estimator: Any, mixed: bool) -> None:
    net = network(act)
    model = fc.convert(net, 3, estimator=estimator)
    reference = copy.deepcopy(model).double()
    with reference.using(estimator=fc.Implicit(), tolerance=1e-12):
        exact = gradients(reference, X.double())
    plain = copy.deepcopy(net)
    ordinary = worst(gradients(plain, X, mixed=True), gradients(copy.deepcopy(net).double(), X.double()))
    found = gradients(model, X, mixed=True) if mixed else gradients(model.half(), X.half())
    assert all(v.any() for v in found.values())
    assert 1 - worst(found, exact) <= 3 * (1 - ordinary) + 1e-3, "roundings, and what the tolerance leaves"


def test_the_scale_of_the_loss_does_not_matter() -> None:
    model = fc.convert(network(nn.Tanh), 3)
    small, large = (gradients(copy.deepcopy(model), X, scale, mixed=True) for scale in (1.0, 2.0**12))
    assert worst(small, large) > 0.999
    assert all(abs(float(small[n].norm() / large[n].norm()) - 1) < 0.01 for n in small)


def test_a_scaler_trains() -> None:
    model = fc.convert(network(nn.ReLU), 3)
    optimizer, scaler = torch.optim.Adam(model.parameters(), 0.01), torch.amp.GradScaler("cpu")
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(model(X).float(), Y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_states_in_two_precisions_stop_at_the_coarser_one() -> None:
    """A held norm gives float32 under autocast, a convolution bfloat16."""
    torch.manual_seed(0)
    layers = [nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()]  # fmt: skip
    model = fc.convert(nn.Sequential(*layers).eval(), 3, norm="held", loop_gain=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        _, (found,) = model.equilibrium(X)
        model(X).float().square().sum().backward()
    assert {s.dtype for s in found.states.values()} == {torch.float32, torch.bfloat16}
    assert found.relaxation.converged
    assert found.relaxation.sweeps <= 4, "not on to a fixed point of the roundings"
