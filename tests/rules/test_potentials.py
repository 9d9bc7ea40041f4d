"""Every potential: ``sigma = (grad G)^-1``, G convex, and differences that lose nothing to cancellation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffebm_compiler.ir import IDENTITY, Potential
from ffebm_compiler.rules import RULES
from ffebm_compiler.rules.registry import example_potentials
from ffebm_compiler.rules.softplus import softplus

PYTORCH = 1e-8
"""PyTorch's own error in float64: its hardsigmoid multiplies by a float32 of 1/6, its softplus is linear from 20 on."""
POTENTIALS = [("identity", IDENTITY)] + [
    (f"{rule.name}-{i}", p) for rule in RULES for i, p in enumerate(example_potentials(rule))
]
EACH = pytest.mark.parametrize("p", [pytest.param(p, id=name) for name, p in POTENTIALS])


def pre_activations(scale: float = 3.0) -> Tensor:
    return scale * torch.randn(64, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def total(p: Potential, s: Tensor) -> Tensor:
    return p.energy(s).sum()


@EACH
def test_the_gradient_of_the_energy_inverts_the_activation(p: Potential) -> None:
    a = pre_activations()
    s = p.activation(a).requires_grad_()
    (gradient,) = torch.autograd.grad(total(p, s), s)
    free = (s > p.lower) & (s < p.upper)
    if p.simplex is not None:  # up to the multiplier of the constraint, one a simplex
        gradient, a = gradient - gradient.mean(p.simplex, keepdim=True), a - a.mean(p.simplex, keepdim=True)
    assert free.any()
    assert torch.allclose(gradient[free], a[free], rtol=1e-7, atol=1e-7)
    at_lower, at_upper = s <= p.lower, s >= p.upper
    assert (a - gradient)[at_lower & torch.isfinite(gradient)].le(1e-12).all(), (
        "at a bound the energy holds the state there"
    )
    assert (a - gradient)[at_upper & torch.isfinite(gradient)].ge(-1e-12).all()


@EACH
def test_the_energy_is_convex_as_strongly_as_the_slope_says(p: Potential) -> None:
    """G(mid) <= mean G - |s - t|^2 / (8 slope)."""
    s, t = p.activation(pre_activations()), p.activation(pre_activations().flip(0))
    dims = () if p.simplex is None else (p.simplex,)

    def energy(x: Tensor) -> Tensor:
        return p.energy(x).sum(dims) if dims else p.energy(x)

    distance = (s - t).square()
    distance = distance.sum(dims) if dims else distance
    gap = (energy(s) + energy(t)) / 2 - energy((s + t) / 2)
    assert (gap >= distance / (8 * p.slope) - 1e-12).all()


@EACH
def test_the_energy_prints(p: Potential) -> None:
    text, tex = p.text.format(s="s[fc1]"), p.tex.format(s="s_{1}")
    assert "s[fc1]" in text
    assert "s_{1}" in tex
    assert tex.count("{") == tex.count("}")
    assert "{s}" not in text + tex


@EACH
def test_the_activation_is_no_steeper_than_the_slope(p: Potential) -> None:
    a, da = pre_activations(), 0.3 * pre_activations(1.0).flip(1)
    moved = p.difference(a, da)
    if p.simplex is None:
        assert (moved.abs() <= p.slope * da.abs() + 1e-12).all()
    assert (moved.square().sum(1) <= (p.slope * da).square().sum(1) + 1e-12).all() or p.simplex is not None
    if p.simplex is not None:
        assert (moved.norm(dim=p.simplex) <= p.slope * da.norm(dim=p.simplex) + 1e-12).all()


@EACH
@pytest.mark.parametrize("size", [1e-1, 1.0, 10.0])
def test_a_large_difference_is_the_difference(p: Potential, size: float) -> None:
    a, da = pre_activations(), size * pre_activations(1.0).flip(0)
    assert torch.allclose(p.difference(a, da), p.activation(a + da) - p.activation(a), rtol=1e-7, atol=PYTORCH)


@EACH
@pytest.mark.parametrize("size", [1e-4, 1e-8, 1e-20])
def test_a_tiny_difference_in_float32_keeps_its_precision(p: Potential, size: float) -> None:
    """Against the tangent in float64, which differs from it by O(size): far below the rounding of a itself."""
    a, da = pre_activations().float(), (size * pre_activations(1.0).flip(0)).float()
    exact = p.tangent(a.double(), da.double())
    scale = da.double().abs() if p.simplex is None else da.double().abs().amax(p.simplex, keepdim=True)
    left, right = (p.tangent(a.double() + shift, da.double()) for shift in (-10 * size, 10 * size))
    smooth = (left - right).abs() <= (1e-6 + 100 * size) * scale  # no corner of sigma is near
    assert smooth.double().mean() > 0.99
    error = torch.where(smooth, (p.difference(a, da).double() - exact).abs(), 0.0)
    assert (error <= (1e-5 + 20 * size) * scale.clamp(min=1e-40)).all(), float((error / scale.clamp(min=1e-40)).max())


@EACH
def test_the_tangent_is_the_derivative(p: Potential) -> None:
    a, da = pre_activations(), pre_activations(1.0).flip(1)
    _, expected = torch.func.jvp(p.activation, (a,), (da,))
    assert torch.allclose(p.tangent(a, da), expected, rtol=3e-8, atol=PYTORCH)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_values_stay_finite(p: Potential, dtype: torch.dtype) -> None:
    a = (
        torch.tensor([[-1e4, -100.0, -30.0, -1e-30, 0.0, 1e-30, 30.0, 100.0, 1e4]], dtype=dtype)
        .T.expand(9, 4)
        .contiguous()
    )
    for da in (
        torch.full_like(a, 1e-8),
        torch.full_like(a, -1e-8),
        torch.full_like(a, 50.0),
        torch.full_like(a, -50.0),
        torch.full_like(a, 200.0),
        torch.full_like(a, -200.0),
    ):
        for found in (p.activation(a), p.difference(a, da), p.tangent(a, da), p.energy(p.activation(a))):
            assert torch.isfinite(found).all()
            assert found.dtype == dtype


@EACH
def test_a_state_tells_its_slope(p: Potential) -> None:
    """Where it does, ``sigma'(a) da`` from ``s = sigma(a)`` is that from a; what else must be kept of ``a`` tells it
    with it.
    """
    a, da = pre_activations(), pre_activations().flip(0)
    if p.inside is not None:
        assert p.tangent_at is None
        kept = p.inside(a, p.activation(a))
        assert torch.equal(torch.where(kept, p.slope * da, 0.0), p.tangent(a, da))
        return
    assert p.tangent_at is not None
    assert torch.allclose(p.tangent_at(p.activation(a))(da), p.tangent(a, da), rtol=1e-6, atol=PYTORCH)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_an_activation_in_place_is_the_activation(p: Potential, dtype: torch.dtype) -> None:
    a = pre_activations().to(dtype)
    assert torch.equal(p.settle(a.clone()), p.activation(a))
    if p.tangent_at is not None:
        assert p.tangent_at(p.activation(a))(a).dtype == dtype


@EACH
def test_the_slope_on_a_bound_is_that_of_the_activation(p: Potential) -> None:
    """Automatic differentiation of the activation, and all that knows the slope."""
    a = torch.tensor([[-3.0, -1.0, -0.5, 0.0, 1.0, 1.5, 3.0, 6.0]], dtype=torch.float64).expand(8, 8).contiguous()
    da = torch.ones_like(a)
    _, expected = torch.func.jvp(p.activation, (a,), (da,))
    torch.testing.assert_close(p.tangent(a, da), expected, rtol=3e-8, atol=PYTORCH)
    if p.tangent_at is not None:
        torch.testing.assert_close(p.tangent_at(p.activation(a))(da), expected, rtol=3e-8, atol=PYTORCH)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_a_softplus_is_straight_where_torchs_is(beta: float) -> None:
    """Its curve would be 2e-9 below: far less than float32 tells, and far more than float64."""
    a = torch.tensor([19.0, 20.0, 20.001, 21.0, 40.0], dtype=torch.float64).div(beta)
    p, da = softplus(beta), torch.ones_like(a)
    _, expected = torch.func.jvp(p.activation, (a,), (da,))
    assert p.tangent_at is not None
    for found in (p.tangent(a, da), p.tangent_at(p.activation(a))(da)):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
