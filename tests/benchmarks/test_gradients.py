"""The exact gradient of the benchmarks against the oracle, and what a comparison says."""

from __future__ import annotations

import math

import torch
from oracle import Dense
from torch import nn

import ffebm_compiler as fc
from benchmarks.speed import gradients
from benchmarks.speed.gradients import Ended, Quality
from benchmarks.speed.subjects import Batch
from ffebm_compiler.compare import loss_gradients


def pooled() -> tuple[fc.FFEBM, Batch]:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 2, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    model = fc.convert(net.double(), block_size=3, loop_gain=0.1, tolerance=1e-13, max_sweeps=1000).train()
    batch = Batch(torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 2]))
    model.ensure_gains(batch.x)
    return model, batch


def test_the_exact_gradient_is_the_oracles_from_any_nearby_states() -> None:
    model, batch = pooled()
    _, settled = gradients.executor(model, batch)
    disturbed = {
        b: Ended({n: s + 1e-6 * torch.randn_like(s).abs() for n, s in e.states.items()}, e.winners)
        for b, e in settled.items()
    }
    found = gradients.exact(model, batch, disturbed)
    with model.using(estimator=Dense()):
        expected = loss_gradients(model, batch.x, batch.y, nn.functional.cross_entropy)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9)


def test_the_executors_gradient_is_that_of_its_backward() -> None:
    model, batch = pooled()
    found, settled = gradients.executor(model, batch)
    expected = loss_gradients(model, batch.x, batch.y, nn.functional.cross_entropy)
    assert settled.keys() == {b.name for b in model.program.energy_blocks}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_comparison_names_the_worst_parameter_and_weighs_all() -> None:
    exact = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([0.0, 4.0]), "zero": torch.zeros(2)}
    estimate = {"a": torch.tensor([3.0, 3.0]), "b": torch.tensor([0.0, 4.0]), "zero": torch.zeros(2)}
    found = Quality.of({k: v.double() for k, v in estimate.items()}, {k: v.double() for k, v in exact.items()})
    assert found.at == "a"
    assert math.isclose(found.worst, 1 / math.sqrt(2))
    assert math.isclose(found.error, 3 / 5)
    assert math.isclose(found.cosine, 25 / (5 * math.sqrt(34)))
