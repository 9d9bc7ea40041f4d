"""Gradients from the chip's nudged phases, against exact ones of the energy, sample by sample and bit by bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Dense
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.emulate import Range
from ffebm_compiler.chip.emulate.learning import Nudge, fitted
from ffebm_compiler.ffebm import AnalogFFEBM

Grads = dict[str, Tensor]


class TwoOutputs(nn.Module):
    """An inner state is read outside too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 5)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.a(x))
        return self.drop(torch.tanh(self.b(h))), h


class Tied(nn.Module):
    """One matrix, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(4, 6) / 2), nn.Parameter(torch.randn(4) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w) @ self.w.t() + self.b


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 2, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2, 3),
    )


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(2, 3)
    )


def parametrized() -> nn.Module:
    net = mlp()
    nn.utils.parametrizations.weight_norm(net[2])
    return net


class Embedded(nn.Module):
    """Integer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rest = nn.Embedding(7, 4), mlp()

    def forward(self, index: Tensor) -> Tensor:
        return self.rest(self.table(index))


def normal(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda g: torch.randn(shape, generator=g, dtype=torch.float64)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Tensor]]] = {
    "mlp": (mlp, normal(3, 4)),
    "unbatched": (mlp, normal(4)),
    "sequences": (mlp, normal(2, 3, 4)),
    "two outputs": (TwoOutputs, normal(3, 4)),
    "tied": (Tied, normal(3, 4)),
    "pooled": (pooled, normal(2, 1, 4, 4)),
    "normed": (normed, normal(2, 1, 4, 4)),
    "parametrized": (parametrized, normal(3, 4)),
    "integers": (Embedded, lambda g: torch.randint(0, 7, (3,), generator=g)),
}


def made(name: str, seed: int = 0, size: int = 4) -> tuple[fc.FFEBM, Tensor]:
    make, draw = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make().double()
    model = fc.convert(net, block_size=size, tolerance=1e-14, max_sweeps=3000)
    return model, draw(torch.Generator().manual_seed(seed))


def loss_of(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """With errors that differ in size from sample to sample and from output to output."""
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    total = torch.zeros((), dtype=torch.float64)
    for k, v in enumerate(values):
        flat = v.reshape(-1)
        scale = 10.0 ** torch.linspace(-2, 1, len(flat), dtype=v.dtype)
        total = total + (k + 1) * (scale * (flat - 0.3).square()).sum()
    return total


def gradients(model: fc.FFEBM, x: Tensor, loss: Callable[..., Tensor] = loss_of) -> Grads:
    x = x.clone().requires_grad_(x.is_floating_point())
    model.zero_grad()
    loss(model(x)).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found if x.grad is None else found | {"input": x.grad}


def exact(model: fc.FFEBM, x: Tensor, loss: Callable[..., Tensor] = loss_of) -> Grads:
    with model.using(estimator=Dense()):
        return gradients(model, x, loss)


def error(found: Grads, expected: Grads) -> float:
    assert set(found) == set(expected)
    return max(float((found[n] - expected[n]).norm() / expected[n].norm().clamp(min=1e-12)) for n in expected)


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["states", "difference"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_gradient_is_exact_to_second_order_in_the_nudge(name: str, readout: str) -> None:
    """The error of a centered difference is O(nudge^2): a nudge 4 times smaller has an error 16 times smaller."""
    model, x = made(name)
    expected = exact(model, x)

    def at(nudge: float) -> float:
        chip = model.lower(hardware=fc.Hardware(nudge=nudge, learning_readout=readout)).calibrate(x)
        return error(gradients(chip, x), expected)

    large, small, tiny = at(0.04), at(0.01), at(1e-4)
    assert tiny < 1e-6
    assert small < 1e-2
    assert small < 1e-7 or 12 < large / small < 20


@pytest.mark.slow
@settings(deadline=None, max_examples=10, derandomize=True)
@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from(["mlp", "tied", "two outputs"]))
def test_random_networks_and_partitions(seed: int, size: int, name: str) -> None:
    model, x = made(name, seed, size)
    chip = model.lower(hardware=fc.Hardware(nudge=1e-3)).calibrate(x)
    assert error(gradients(chip, x), exact(model, x)) < 1e-4


def weighted(factors: list[float]) -> Callable[[Tensor], Tensor]:
    scale = torch.tensor(factors, dtype=torch.float64)
    return lambda y: (scale[:, None] * (y - 0.3).square()).sum()


@pytest.mark.parametrize("factors", [[1e-8, 1.0, 1e6], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
def test_each_sample_is_nudged_by_its_own_strength(factors: list[float]) -> None:
    """The relative error of an input's gradient does not depend on how small its sample's error is beside others."""
    model, x = made("mlp")
    chip = model.lower(hardware=fc.Hardware(nudge=1e-3)).calibrate(x)
    found, expected = gradients(chip, x, weighted(factors)), exact(model, x, weighted(factors))
    for n, factor in enumerate(factors):
        if factor == 0:
            assert float(found["input"][n].abs().max()) == 0
        else:
            torch.testing.assert_close(found["input"][n], expected["input"][n], rtol=1e-4, atol=0)


def test_no_error_gives_zeros_and_a_bad_one_nan() -> None:
    model, x = made("mlp")
    chip = model.lower(hardware="rram").calibrate(x)
    assert all(not bool(g.any()) for g in gradients(chip, x, weighted([0.0, 0.0, 0.0])).values())
    assert not chip.nudged_relaxation["block1"]
    for bad in (math.nan, math.inf):
        assert all(bool(g.isnan().all()) for g in gradients(chip, x, lambda y, b=bad: y.sum() * b).values())


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    model, x = made("mlp")
    model.get_parameter("2.weight").requires_grad_(False)
    chip = model.lower(hardware=fc.Hardware(nudge=1e-3)).calibrate(x)
    found = gradients(chip, x)
    assert set(found) == {"0.weight", "0.bias", "2.bias", "4.weight", "4.bias", "input"}
    assert error(found, exact(model, x)) < 1e-4
    chip.requires_grad_(False)
    only = gradients(chip, x)
    assert set(only) == {"input"}


# --- what is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("readout", "bits"), [("difference", (4, 8, 12)), ("states", (12, 16, 20))])
def test_more_bits_give_a_better_gradient(readout: str, bits: tuple[int, int, int]) -> None:
    """Four bits more are steps 16 times finer; with all the bits there are, only the nudge's own error is left."""
    model, x = made("mlp", size=2)
    expected = exact(model, x)

    def at(n: int | None) -> float:
        hardware = fc.Hardware(nudge=0.005, learning_bits=n, learning_readout=readout)
        return error(gradients(model.lower(hardware=hardware).calibrate(x), x), expected)

    few, more, many, perfect = *(at(n) for n in bits), at(None)
    assert few > 4 * more > 16 * many
    assert perfect < 1e-3


def test_a_difference_needs_fewer_bits_than_states() -> None:
    model, x = made("mlp")
    expected = exact(model, x)
    errors = {}
    for readout in ("states", "difference"):
        hardware = fc.Hardware(nudge=0.01, learning_bits=6, learning_readout=readout)
        errors[readout] = error(gradients(model.lower(hardware=hardware).calibrate(x), x), expected)
    assert errors["difference"] < 0.1 < errors["states"]


NORMAL = st.floats(-1e3, 1e3).map(lambda v: v if abs(v) > 1e-290 else 0.0)
"""Whether a processor keeps smaller numbers depends on what has run before in the process: some kernels switch them
off.
"""


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(2, 10), st.lists(NORMAL, min_size=4, max_size=4), st.floats(1e-6, 1e6))
def test_a_fitted_converter_uses_its_range_for_every_sample(bits: int, values: list[float], scale: float) -> None:
    x = torch.tensor([values, [v * scale for v in values], [0.0] * 4], dtype=torch.float64)
    found = fitted(x, bits)
    step = x.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert bool(((found - x).abs() <= step / 2 * (1 + 1e-9)).all())
    at_peak = (x.abs() == x.abs().amax(1, keepdim=True)) & (x != 0)
    torch.testing.assert_close(found[at_peak], x[at_peak])  # full scale
    assert fitted(x, None) is x


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), min_size=3, max_size=3), st.booleans())
def test_a_nudge_reaches_the_allowed_strength_in_every_sample(rows: list[list[float]], per_sample: bool) -> None:
    e = {"a": torch.tensor(rows, dtype=torch.float64), "b": torch.tensor(rows, dtype=torch.float64)[:, :1] * 2}
    ranges = {"a": Range(3.0, True), "b": Range(0.5, False)}
    nudge = Nudge.from_errors(e, fc.Hardware(nudge=0.1), ranges, per_sample)
    assert nudge.strength == pytest.approx(0.05)
    for n, v in e.items():
        scale = nudge.scale[:, None] if per_sample else nudge.scale
        torch.testing.assert_close(nudge.errors[n] * scale, v)
        assert float(nudge.errors[n].abs().max()) <= 1
    joint = torch.cat([v.abs() for v in e.values()], 1).amax(1)
    torch.testing.assert_close(nudge.scale, joint if per_sample else joint.amax())


@pytest.mark.slow
def test_reads_average_noise() -> None:
    """The variance of the gradient over presentations falls as 1/reads, and its mean stays: uncorrelated phases."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model = fc.convert(net, block_size=2)
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws = 60

    def spread(reads: int) -> tuple[Tensor, Tensor]:
        hardware = fc.Hardware(read_noise=0.02, nudge=0.1, learning_reads=reads)
        chip = model.lower(hardware=hardware, noise_seed=reads).calibrate(x)
        with torch.no_grad():
            y = chip(x)
        # the same error each time, whatever the free phase read: its noise does not average
        found = torch.stack(
            [gradients(chip, x, lambda out: (out * y).sum())["0.weight"].flatten() for _ in range(draws)]
        )
        return found.var(0).sum(), found.mean(0)

    (one, _), (eight, _) = spread(1), spread(8)
    # the inputs' gradient apart, each entry's variance has a relative spread of about sqrt(2/59), and entries are many
    assert 4.5 < float(one / eight) < 14


def test_phases_that_share_their_noise_give_a_quieter_gradient() -> None:
    model, x = made("mlp")
    expected = exact(model, x)
    errors = []
    for rho in (0.0, 1.0):
        hardware = fc.Hardware(read_noise=0.01, read_noise_correlation=rho, nudge=0.05)
        errors.append(error(gradients(model.lower(hardware=hardware).calibrate(x), x), expected))
    assert errors[1] < errors[0] / 5


def cosine(a: Grads, b: Grads) -> float:
    flat = [torch.cat([g[n].flatten() for n in sorted(b)]) for g in (a, b)]
    return float(torch.cosine_similarity(flat[0], flat[1], 0))


@pytest.mark.parametrize("name", ["mlp", "pooled", "tied", "unbatched"])
def test_an_imperfect_chip_still_points_downhill(name: str) -> None:
    model, x = made(name, size=2)
    hardware = fc.Hardware(
        programming_error=0.01,
        offset=2e-3,
        gain_mismatch=0.01,
        reverse_gain_error=0.02,
        nudge=0.05,
        bidirectional=False,
        read_noise=0.002,
        read_noise_correlation=0.99,
        nudge_bits=8,
        learning_bits=8,
        dac_bits=8,
        adc_bits=8,
    )
    chip: AnalogFFEBM = model.lower(hardware=hardware).calibrate(x)
    assert cosine(gradients(chip, x), exact(model, x)) > 0.8
    quiet = model.lower(hardware=dataclasses.replace(hardware, read_noise=0.0)).calibrate(x)
    assert cosine(gradients(quiet, x), exact(model, x)) > 0.9
