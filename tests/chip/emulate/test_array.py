"""Read noise of arrays: mean, variance and correlations of drive and feedback against exact sums over the devices."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ffebm_compiler.chip.emulate import Reading, Sample
from ffebm_compiler.chip.emulate.array import ArrayCall, ArrayWeights
from ffebm_compiler.ir import Operation
from ffebm_compiler.rules import weighted

DRAWS = 4000
LINEAR = Operation("linear", F.linear, {}, weighted=True, kind=weighted.LINEAR)
WINDOW = {"stride": 2, "padding": 1, "dilation": 1, "groups": 1}
CONVOLUTION = Operation("conv2d", F.conv2d, WINDOW, weighted=True, kind=weighted.CONVOLUTIONS[2])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def phase(generator: torch.Generator, rho: float = 0.0) -> Reading:
    return Sample(generator, rho).phase()


def array(operation: Operation, weight: Tensor, bias: Tensor | None, back: Tensor | None = None) -> ArrayWeights:
    variance = 0.1 * normal(*weight.shape, seed=5).square()
    bias_variance = None if bias is None else 0.1 * normal(*bias.shape, seed=6).square()
    return ArrayWeights(weight, bias, weight if back is None else back, variance, bias_variance)


def unrolled(operation: Operation, weight: Tensor, x: Tensor) -> Tensor:
    """(outputs, inputs) of one sample without bias, a unit vector at a time."""
    unit = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    return torch.stack([operation(u[None], weight, None).flatten() for u in unit], 1)


CASES = [(LINEAR, (5,), (4, 5), 4), (CONVOLUTION, (2, 5, 4), (3, 2, 3, 3), 3)]


@pytest.mark.parametrize(("operation", "shape", "weights", "outputs"), CASES, ids=["linear", "conv2d"])
def test_noise_of_drive_and_feedback_has_the_sum_of_the_devices_variances(
    operation: Operation, shape: tuple[int, ...], weights: tuple[int, ...], outputs: int
) -> None:
    w, b = normal(*weights, seed=1), normal(outputs, seed=2)
    a, x = array(operation, w, b), normal(*shape, seed=3)
    M, V = unrolled(operation, w, x), unrolled(operation, a.variance, x)  # type: ignore[arg-type]
    assert a.bias_variance is not None
    positions = M.shape[0] // outputs
    e = normal(M.shape[0], seed=4)
    many = x.expand(DRAWS, *shape).clone().requires_grad_()
    y = ArrayCall("t", operation, a, phase(torch.Generator().manual_seed(0)))(many)
    y.backward(e.reshape(y.shape[1:]).expand_as(y))
    assert many.grad is not None
    drive_mean = M @ x.flatten() + b.repeat_interleave(positions)
    drive_variance = V @ x.flatten().square() + a.bias_variance.repeat_interleave(positions)
    for found, mean, variance in (
        (y.detach().flatten(1), drive_mean, drive_variance),
        (many.grad.flatten(1), M.T @ e, V.T @ e.square()),
    ):
        assert bool(((found.mean(0) - mean).abs() <= 5 * (variance / DRAWS).sqrt() + 1e-12).all())
        ratio = found.var(0)[variance > 0] / variance[variance > 0]
        assert bool(((ratio - 1).abs() < 5 * math.sqrt(2 / DRAWS)).all())
        # normal, not merely of that variance: the fourth moment of a normal is 3 (its own spread over n draws is
        # sqrt(96 / n))
        z = (found - mean)[:, variance > 0] / variance[variance > 0].sqrt()
        assert abs(float(z.pow(4).mean()) - 3) < 5 * math.sqrt(96 / z.numel())
        correlation = torch.corrcoef(z.T) - torch.eye(z.shape[1])
        assert float(correlation.abs().max()) < 5.5 / math.sqrt(DRAWS)


def test_noise_is_held_within_a_phase_and_new_in_the_next() -> None:
    w = normal(4, 5, seed=1)
    a, x, e = array(LINEAR, w, None), normal(3, 5, seed=2).requires_grad_(), normal(3, 4, seed=3)
    generator = torch.Generator().manual_seed(0)

    def both(reading: Reading) -> tuple[Tensor, Tensor]:
        y = ArrayCall("t", LINEAR, a, reading)(x)
        return y.detach(), torch.autograd.grad(y, x, e)[0]

    one, other = phase(generator), phase(generator)
    first, again, later = both(one), both(one), both(other)
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(first, later, strict=True))


def test_while_held_an_output_keeps_its_number_as_the_input_moves() -> None:
    """``(y - W x) / sqrt(V x^2)`` is the same xi at every x of a phase."""
    a = array(LINEAR, normal(4, 5, seed=1), None)
    call = ArrayCall("t", LINEAR, a, phase(torch.Generator().manual_seed(0)))
    assert a.variance is not None

    def xi(x: Tensor) -> Tensor:
        return (call(x) - x @ a.weight.T) / (x.square() @ a.variance.T).sqrt()  # type: ignore[union-attr]

    torch.testing.assert_close(xi(normal(3, 5, seed=2)), xi(normal(3, 5, seed=3)))


@pytest.mark.parametrize("rho", [0.25, 1.0])
def test_phases_of_one_sample_share_a_part_of_their_noise(rho: float) -> None:
    a = array(LINEAR, normal(4, 5, seed=1), None)
    x = normal(5, seed=2).expand(DRAWS, 5)
    sample = Sample(torch.Generator().manual_seed(0), rho)
    first, second = (ArrayCall("t", LINEAR, a, sample.phase())(x) - x @ a.weight.T for _ in range(2))
    found = (first * second).mean(0) / (first.std(0) * second.std(0))
    assert bool(((found - rho).abs() < 5 / math.sqrt(DRAWS)).all())


def test_feedback_from_a_deep_layer_is_as_noisy_as_its_size_asks() -> None:
    """Errors carry the layer weight, which grows with every layer: in float32 the square of 1e20 is no number."""
    a = array(LINEAR, normal(4, 5, seed=1), None)
    x, e = normal(3, 5, seed=2), normal(3, 4, seed=3)

    def feedback(scale: float, dtype: torch.dtype) -> Tensor:
        leaf = x.to(dtype).requires_grad_()
        y = ArrayCall("t", LINEAR, a, phase(torch.Generator().manual_seed(0)))(leaf)
        return torch.autograd.grad(y, leaf, scale * e.to(dtype))[0].double() / scale

    torch.testing.assert_close(feedback(1e25, torch.float32), feedback(1.0, torch.float64), rtol=1e-4, atol=1e-5)


def test_a_second_array_carries_the_feedback_only() -> None:
    w, back = normal(4, 5, seed=1), normal(4, 5, seed=9)
    x, e = normal(3, 5, seed=2).requires_grad_(), normal(3, 4, seed=3)
    y = ArrayCall("t", LINEAR, ArrayWeights(w, None, back), phase(torch.Generator()))(x)
    torch.testing.assert_close(y, x @ w.T)
    torch.testing.assert_close(torch.autograd.grad(y, x, e)[0], e @ back)


def test_a_second_array_has_noise_of_its_own() -> None:
    """Without noise in its devices the feedback is exact, however noisy the drive is."""
    w, back = normal(4, 5, seed=1), normal(4, 5, seed=9)
    x, e = normal(3, 5, seed=2).requires_grad_(), normal(3, 4, seed=3)
    a = ArrayWeights(w, None, back, torch.ones_like(w), None, torch.zeros_like(w))
    y = ArrayCall("t", LINEAR, a, phase(torch.Generator()))(x)
    assert not torch.allclose(y, x @ w.T)
    torch.testing.assert_close(torch.autograd.grad(y, x, e)[0], e @ back)


def test_a_plain_array_is_its_operation() -> None:
    w, b, x = normal(4, 5, seed=1), normal(4, seed=2), normal(3, 5, seed=3)
    plain = ArrayWeights(w, b, w)
    assert plain.is_plain
    assert torch.equal(ArrayCall("t", LINEAR, plain, phase(torch.Generator()))(x), F.linear(x, w, b))


def test_mixed_precision_follows_the_value() -> None:
    a = array(LINEAR, normal(4, 5, seed=1), normal(4, seed=2), back=normal(4, 5, seed=3))
    x = normal(3, 5, seed=4).to(torch.bfloat16).requires_grad_()
    y = ArrayCall("t", LINEAR, a, phase(torch.Generator()))(x)
    (c,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == c.dtype == torch.bfloat16
    assert a.like(a.weight) is a
