"""Ideal hardware is the torch executor: the same equilibria and the same gradients, whatever the model and the type."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ZOO
from torch import Tensor, nn

import ffebm_compiler as fc
from examples import networks

SMALL = [e for e in ZOO if not (e.heavy or e.export) and e.requires == "torch"]
IDEAL = fc.Hardware()


def typed(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors of an input in another type."""
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, value)


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Relative to the largest of a bank."""
    return max(
        float((found[n] - e).abs().max() / e.abs().max().clamp(min=1e-30)) for n, e in expected.items() if e.numel()
    )


def net(widths: tuple[int, ...], activation: type[nn.Module], seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [part for n, m in itertools.pairwise(widths) for part in (nn.Linear(n, m), activation())]
    return nn.Sequential(*layers[:-1]).double().eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("entry", SMALL, ids=lambda e: e.name)
def test_equilibria_of_the_zoo(entry: Any, dtype: torch.dtype, close: float) -> None:
    made, inputs = entry.build()
    inputs = typed(inputs, dtype)
    model = fc.convert(made.to(dtype).eval(), block_size=3, loop_gain=0.05)
    chip = model.lower("analog-emu").calibrate(*inputs)
    (_, expected), (_, found) = model.equilibrium(*inputs), chip.equilibrium(*inputs)
    assert len(expected) == len(found) > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert difference(mine.states, theirs.states) < close, mine.block


@pytest.mark.slow
@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    st.lists(st.integers(2, 7), min_size=3, max_size=5),
    st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh]),
    st.integers(1, 3),
    st.sampled_from([0.05, 0.2, None]),
    st.integers(0, 1000),
)
def test_gradients_at_the_same_nudge_are_those_of_the_executor(
    widths: list[int], activation: type[nn.Module], size: int, loop_gain: float | None, seed: int
) -> None:
    """One sample, one block after another: the chip's nudge is a part of each output's calibrated range."""
    model = fc.convert(net(tuple(widths), activation, seed), block_size=size, loop_gain=loop_gain, max_sweeps=2000)
    generator = torch.Generator().manual_seed(seed)
    x, error = (torch.randn(1, n, generator=generator, dtype=torch.float64) for n in (widths[0], widths[-1]))
    chip = model.lower(hardware=dataclasses.replace(IDEAL, nudge=0.02)).calibrate(x)

    def at_the_nudge_of_the_chip(free: Any, errors: Mapping[str, Tensor], wanted: Any) -> Any:
        beta = 0.02 * min(chip.chip.ranges[n].high for n in errors)
        return fc.CenteredEP(beta=beta, subtract=True)(free, errors, wanted)

    with warnings.catch_warnings(), model.using(estimator=at_the_nudge_of_the_chip):
        warnings.simplefilter("ignore", fc.ConvergenceWarning)  # unit feedback may not settle, in either
        expected, found = ({n: g for n, g in gradients(m, x, error).items()} for m in (model, chip))
        settled = all(r.converged for m in (model, chip) for r in m.relaxation)
    assert settled or loop_gain is None
    for name, g in expected.items():
        if settled and g.abs().max() > 1e-6:
            assert F.cosine_similarity(found[name].flatten(), g.flatten(), dim=0) > 0.9999, name
            assert found[name].norm() == pytest.approx(g.norm().item(), rel=1e-3)


def gradients(model: fc.FFEBM, x: Tensor, error: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (model(x) * error).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("physics", ["hopfield", "resistive"])
def test_a_small_nudge_gives_the_exact_gradient(physics: str) -> None:
    """Against implicit differentiation of the equilibrium, over a batch whose samples are nudged each for itself."""
    model = fc.convert(net((5, 7, 6, 4), nn.ReLU, 3), block_size=3, loop_gain=0.2)
    generator = torch.Generator().manual_seed(0)
    x, error = (torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (5, 4))
    error = error * torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    chip = model.lower(hardware=dataclasses.replace(IDEAL, nudge=1e-5, physics=physics)).calibrate(x)
    found = gradients(chip, x, error)
    with chip.as_ideal(), chip.using(estimator=fc.Implicit()):
        expected = gradients(chip, x, error)
    assert expected.keys() == found.keys()
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-3, atol=1e-4 * float(g.abs().max()), msg=name)


# --- what a chip keeps of a block must not outlive what it follows from -------------------------------------


def test_a_chip_follows_its_weights_its_batch_and_its_type() -> None:
    model = fc.convert(net((4, 6, 5, 3), nn.Tanh, 0), block_size=3, loop_gain=0.2)
    chip = model.lower("analog-emu")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    chip.calibrate(x)

    def agree(tolerance: float = 1e-10) -> None:
        given = x.to(next(chip.parameters()).dtype)
        for batch in (given, given[:2], given[:1]):
            found = chip(batch).detach()
            with chip.as_ideal():
                torch.testing.assert_close(found, chip(batch).detach(), rtol=tolerance, atol=tolerance)

    agree()
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.3)
    for _ in range(2):
        optimizer.zero_grad()
        chip(x).square().sum().backward()
        optimizer.step()
        agree()
    with torch.no_grad():
        next(chip.parameters()).data.mul_(1.5)  # past autograd's version counter
    agree()
    chip.float()
    agree(1e-5)


def test_a_chip_follows_its_specification_and_its_ranges() -> None:
    """A supply limit of half the range clips; taken away, or given a wider range, it does not."""
    model = fc.convert(net((4, 6, 3), nn.ReLU, 1), block_size=2)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chip = model.lower(hardware=dataclasses.replace(IDEAL, headroom=1.0)).calibrate(x)
    free = chip(x)
    clipped = chip(3 * x)
    chip.calibrate(3 * x)
    wider = chip(3 * x)
    with chip.as_ideal():
        torch.testing.assert_close(free, chip(x))
        torch.testing.assert_close(wider, chip(3 * x))
    assert float((clipped - wider).detach().abs().max()) > 0.01 * float(wider.detach().abs().max())
    chip.calibrate(x)
    chip.chip.hardware = dataclasses.replace(chip.hardware, headroom=None)
    torch.testing.assert_close(chip(3 * x), wider)


@pytest.mark.parametrize("physics", ["hopfield", "resistive"])
def test_devices_that_change_behind_the_model_are_seen(physics: str) -> None:
    """Halving every conductance of a layer, as a fault would."""
    model = fc.convert(net((4, 6, 3), nn.ReLU, 2), block_size=2)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chip = model.lower(hardware=dataclasses.replace(IDEAL, physics=physics)).calibrate(x)
    before = chip(x).detach()
    known = chip.chip.devices["0.weight"]
    weaker = dataclasses.replace(known.crossbar.devices, conductance=known.crossbar.devices.conductance / 2)
    crossbar = dataclasses.replace(known.crossbar, devices=weaker)
    chip.chip.devices["0.weight"] = dataclasses.replace(known, crossbar=crossbar, back=crossbar)
    chip.chip.forget("0.weight")
    after = chip(x).detach()
    assert float((after - before).abs().max()) > 0.05 * float(before.abs().max())


def test_thermal_noise_of_one_phase_is_forgotten_in_the_next() -> None:
    """Unlike read noise, whose phases are correlated: sqrt(kT/C) is white."""
    hot = dataclasses.replace(IDEAL, temperature=300.0, capacitance=1e-15, read_noise_correlation=1.0)
    chip = fc.convert(net((1, 1), nn.Identity, 0)[:1], block_size=1).lower(hardware=hot)
    x = torch.ones(20_000, 1, dtype=torch.float64)
    chip.calibrate(x)
    neurons = chip.chip.neurons(chip.program.energy_blocks[0].states[0].name, x[:1])
    sample = chip.chip.sample()
    first, second = (neurons.input(torch.zeros_like(x), sample.phase()).flatten() for _ in range(2))
    assert first.std().item() == pytest.approx(neurons.noise, rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack((first, second)))[0, 1])) < 5 / 20_000**0.5


@pytest.mark.slow
@pytest.mark.parametrize("loop_gain", [0.01, 0.1, 0.25])
def test_a_chip_with_another_nudge_settles_as_the_ideal_one(loop_gain: float) -> None:
    """Where the feedback turns a maximum over, which of its states is the winner must be the same in both."""
    network = networks.vgg(10, torch.Generator().manual_seed(1), (16, 32, 64)).double().eval()
    model = fc.convert(network, block_size=3, loop_gain=loop_gain)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    chips = [model.lower("analog-emu", hardware=fc.Hardware(nudge=n)).calibrate(x) for n in (0.02, 1e-6)]
    (_, expected), *found = [m.equilibrium(x) for m in (model, *chips)]
    for _, blocks in found:
        for mine, theirs in zip(blocks, expected, strict=True):
            assert mine.relaxation.held == theirs.relaxation.held
            assert difference(mine.states, theirs.states) < 1e-10, mine.block
    if loop_gain > 0.01:  # below, two subtracted states tell no gradient of the first layers
        error = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        exact, delivered = gradients(model, x, error), gradients(chips[1], x, error)
        assert (
            min(float(F.cosine_similarity(delivered[n].flatten(), g.flatten(), dim=0)) for n, g in exact.items())
            > 0.9999
        )
