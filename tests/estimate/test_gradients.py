"""Every exact estimator against an oracle that knows nothing but the printed energy, and the oracle against finite
differences.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import models
import pytest
import torch
import torch.nn.functional as F
from oracle import Dense, finite_difference
from torch import Tensor, nn

import ffebm_compiler as fc


class Skips(nn.Module):
    """A block with a skip connection, two outputs, a shared layer and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.a(x) + self.c(y))
        g = torch.relu(self.b(h) + h)
        return torch.sigmoid(self.b(g) - 0.5 * h), g


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(torch.relu(self.a(x)), 2)
        h = F.leaky_relu(self.norm(self.b(h)), 0.2)
        return self.c(F.max_pool2d(h, 2).flatten(1))


class Gated(nn.Module):
    """Smooth activations inside the interaction, and a softmax in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.a(x))
        h = torch.softmax(self.b(h), -1)
        return self.d(F.silu(self.c(4 * h)) + h)


def _chain(activation: Callable[[], nn.Module]) -> nn.Module:
    return models.mlp(activation, (4, 5, 5, 5, 3))


CASES: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    **{
        a().__class__.__name__: (functools.partial(_chain, a), [(3, 4)])
        for a in (
            nn.ReLU,
            nn.Sigmoid,
            nn.Tanh,
            nn.Softplus,
            nn.ELU,
            nn.SELU,
            nn.CELU,
            nn.Hardsigmoid,
            nn.Hardtanh,
            nn.ReLU6,
            nn.GELU,
            nn.SiLU,
            nn.Hardswish,
        )
    },
    "LeakyReLU": (functools.partial(_chain, functools.partial(nn.LeakyReLU, 0.3)), [(3, 4)]),
    "skips": (Skips, [(3, 4), (3, 3)]),
    "pooled": (Pooled, [(2, 1, 4, 4)]),
    "gated": (Gated, [(3, 4)]),
}
ESTIMATORS = [
    fc.CenteredEP(), fc.OneSidedEP(), fc.OneSidedEP(sign=-1), fc.TangentEP(), fc.Implicit(), fc.Unrolled(60),
]  # fmt: skip


def build(case: str, loop_gain: float | None, size: int = 6) -> tuple[fc.FFEBM, tuple[Tensor, ...]]:
    make, shapes = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = make().double().eval()
        models._generic(net)
        args = tuple(torch.randn(s, dtype=torch.float64) for s in shapes)
    return fc.convert(net, block_size=size, loop_gain=loop_gain, norm="held"), args


def gradient(model: fc.FFEBM, args: tuple[Tensor, ...], estimator: fc.Estimator) -> dict[str, Tensor]:
    inputs = [a.clone().requires_grad_() for a in args]
    model.zero_grad()
    with model.using(estimator=estimator):
        _loss(model, inputs).backward()
    assert all(r.converged for r in model.relaxation)
    return {
        **{n: p.grad.clone() for n, p in model.named_parameters()},
        **{f"input {i}": x.grad for i, x in enumerate(inputs)},
    }


def _loss(model: nn.Module, inputs: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for k, o in enumerate(models.flatten(model(*inputs))):
        weights = torch.randn(o.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        total = total + (weights * o).sum() + 0.5 * o.square().sum()
    return total


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loop_gain", [0.01, 0.2])
def test_estimators_are_exact(case: str, loop_gain: float) -> None:
    model, args = build(case, loop_gain)
    assert any(b.block.has_feedback for b in model.blocks)
    exact = gradient(model, args, Dense())
    whole = float(torch.stack([g.norm() for g in exact.values()]).norm())
    for estimator in ESTIMATORS:
        for name, g in gradient(model, args, estimator).items():
            assert float((g - exact[name]).norm()) <= 1e-5 * float(exact[name].norm()) + 1e-8 * whole, (estimator, name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_oracle_is_the_slope_of_the_loss(case: str) -> None:
    model, args = build(case, 0.1)
    exact = gradient(model, args, Dense())
    whole = float(torch.stack([g.norm() for g in exact.values()]).norm())
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with model.holding_gains():
            slope = finite_difference(lambda: _loss(model, args), parameter, direction)
        assert slope == pytest.approx(float((exact[name] * direction).sum()), rel=1e-4, abs=1e-6 * whole), name


@pytest.mark.parametrize("case", ["ReLU", "Tanh", "skips", "Hardtanh"])
def test_unit_feedback_too(case: str) -> None:
    """The paper's form, on weights small enough to settle."""
    model, args = build(case, None)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    exact = gradient(model, args, Dense())
    for estimator in ESTIMATORS[:-1]:
        found = gradient(model, args, estimator)
        assert all(torch.allclose(found[n], g, rtol=1e-5, atol=1e-7) for n, g in exact.items())


@pytest.mark.parametrize(("estimator", "order"), [(fc.OneSidedEP, 1), (fc.CenteredEP, 2)])
def test_the_error_of_a_finite_nudge_falls_at_its_order(estimator: Callable[..., fc.Estimator], order: int) -> None:
    """Halving beta divides the error by two, or by four for the centered estimate."""
    model, args = build("Tanh", 0.2)
    exact = gradient(model, args, Dense())
    errors = []
    for beta in (0.2, 0.1):
        found = gradient(model, args, estimator(beta=beta))
        errors.append(float(torch.stack([(found[n] - g).norm() for n, g in exact.items()]).norm()))
    assert errors[0] / errors[1] == pytest.approx(2.0**order, rel=0.15)


@pytest.mark.parametrize("estimator", [fc.CenteredEP, fc.OneSidedEP])
def test_subtracting_states_is_the_same_estimate(estimator: Callable[..., fc.Estimator]) -> None:
    """The literal two phases and the relaxed displacements are one estimate, at the same nudge."""
    for case in ("Tanh", "skips", "ReLU"):
        model, args = build(case, 0.1)
        plain, literal = (gradient(model, args, estimator(beta=1e-3, subtract=s)) for s in (False, True))
        assert all(torch.allclose(plain[n], literal[n], rtol=1e-6, atol=1e-8) for n in plain)


@pytest.mark.slow
def test_spsa_is_right_on_average() -> None:
    """Its error falls as the square root of the number of samples, so it has no bias to stop at."""
    model, args = build("Tanh", 0.05, 2)
    exact = gradient(model, args, Dense())
    errors = []
    for samples in (16, 400):
        found = gradient(model, args, fc.SPSA(samples=samples, seed=1))
        errors.append(float(torch.stack([(found[n] - p).norm() for n, p in exact.items()]).norm()))
    assert 0.1 < errors[1] / errors[0] < 0.4


@pytest.mark.parametrize("case", ["ReLU", "Tanh", "pooled", "skips", "gated"])
def test_float32_loses_nothing_to_cancellation(case: str) -> None:
    """Deep blocks with little feedback, where subtracting states would return noise."""
    model, args = build(case, 0.01)
    exact = gradient(model, args, Dense())
    single = copy.deepcopy(model).float()
    inputs = [a.float() for a in args]
    single.zero_grad()
    total = torch.zeros(())
    for k, o in enumerate(models.flatten(single(*inputs))):
        weights = torch.randn(o.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64).float()
        total = total + (weights * o).sum() + 0.5 * o.square().sum()
    total.backward()
    for name, p in single.named_parameters():
        if exact[name].norm() > 1e-9:
            assert float(F.cosine_similarity(p.grad.double().flatten(), exact[name].flatten(), 0)) > 0.9999, name
