"""What the example measures of a chip: ablations, calibrated norms, the weights that devices hold, gradients."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch import nn

import ffebm_compiler as fc
from examples import analog
from examples import chip_measures as measures
from examples.data import Images, Split
from ffebm_compiler.chip.hardware import Hardware, defaults
from ffebm_compiler.chip.hardware.presets import PRESETS


@pytest.mark.parametrize("name", ["rram", "pcm", "harsh"])
def test_taking_every_non_ideality_away_leaves_an_ideal_inference(name: str) -> None:
    chip, ideal = PRESETS[name], defaults()
    bare = measures.without(chip, measures.GROUPS)
    assert measures.imperfect(bare) == []
    disturbing = {f for group in measures.GROUPS.values() for f in group}
    assert all(getattr(bare, f) == ideal[f] for f in disturbing)
    kept = [f.name for f in fields(Hardware) if f.name not in disturbing]
    assert all(getattr(bare, f) == getattr(chip, f) for f in kept)


def test_an_ablation_takes_one_away_or_leaves_one_alone() -> None:
    chip = PRESETS["harsh"]
    present = set(measures.imperfect(chip))
    assert "stuck devices" in present
    assert "drift" not in present
    for group, way, changed in measures.ablations(chip):
        left = set(measures.imperfect(changed))
        assert left == ({group} if way == "alone" else present - {group})


def test_a_phase_is_long_enough_when_the_slowest_block_is_off_by_a_thousandth() -> None:
    tau = 0.3e-6
    times = {"block1": 0.4e-6, "block2": tau * math.log(100)}
    assert measures.is_settled(times, Hardware(settling_time=1.001 * tau * math.log(1000)))
    assert not measures.is_settled(times, Hardware(settling_time=0.999 * tau * math.log(1000)))
    assert not measures.is_settled(times, Hardware())


def test_recovered_is_the_part_of_what_was_lost() -> None:
    assert analog.recovered(99.0, 59.0, 89.0) == pytest.approx(0.75)
    assert analog.recovered(99.0, 98.5, 99.0) is None


def test_retaken_statistics_are_those_of_the_batches() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).double()
    before, momentum = net[0].weight.detach().clone(), net[1].momentum
    batches = list(torch.randn(5, 8, 2, 4, 4, dtype=torch.float64))
    net(batches[0] + 3)  # statistics of something else
    measures.retake_statistics(net, batches)
    seen = [net[0](x).transpose(0, 1).flatten(1) for x in batches]
    assert torch.allclose(net[1].running_mean, torch.stack([s.mean(1) for s in seen]).mean(0))
    assert torch.allclose(net[1].running_var, torch.stack([s.var(1) for s in seen]).mean(0))
    assert net[1].momentum == momentum
    assert torch.equal(net[0].weight, before)


@pytest.fixture(scope="module")
def model() -> fc.FFEBM:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return fc.convert(net, block_size=3, loop_gain=0.2).eval()


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 6, generator=generator, dtype=torch.float64), torch.randint(0, 3, (16,), generator=generator))
        for _ in range(2)
    ]


def on_chip(model: fc.FFEBM, hardware: Hardware, x: torch.Tensor) -> fc.AnalogFFEBM:
    chip = model.lower(hardware=hardware, chip_seed=3).calibrate(x)
    chip(x)
    return chip


def test_the_held_weights_are_the_chips(model: fc.FFEBM, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    x = batches[0][0]
    chip = on_chip(model, Hardware(programming_error=0.03), x)
    held = measures.held_by(chip, model)
    for name, parameter in held.named_parameters():
        assert torch.equal(parameter, chip.chip.weight(name))
        assert not torch.equal(parameter, dict(model.named_parameters())[name])
    assert torch.allclose(held(x), chip(x), atol=1e-9)  # no other non-ideality: the same function


def test_gradients_of_an_ideal_chip_are_exact(
    model: fc.FFEBM, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    seen: list[None] = []
    rows = measures.gradient_rows(on_chip(model, Hardware(), batches[0][0]), model, batches, lambda: seen.append(None))
    assert len(seen) == len(batches)
    assert [r["parameter"] for r in rows] == [n for n, _ in model.named_parameters()]
    assert min(min(r["one batch"], r["all batches"], r["with the weights asked for"]) for r in rows) > 0.999


def test_a_chip_with_errors_is_judged_by_the_weights_that_it_holds(
    model: fc.FFEBM, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    chip = on_chip(model, Hardware(programming_error=0.1), batches[0][0])
    rows = measures.gradient_rows(chip, model, batches, lambda: None)
    assert min(r["all batches"] for r in rows) > 0.999
    assert min(r["with the weights asked for"] for r in rows) < 0.99


def test_every_device_is_in_the_histogram(model: fc.FFEBM, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    chip = on_chip(model, PRESETS["rram"], batches[0][0])
    rows = measures.conductances(chip)
    assert [r["weight"] for r in rows] == ["0.weight", "2.weight", "4.weight"]
    assert [sum(r["target"]) for r in rows] == [2 * 6 * 12, 2 * 12 * 8, 2 * 8 * 3]


def test_calibration_takes_a_quarter_of_few_images() -> None:
    images = Images("some", torch.zeros(12, 1, 2, 2, dtype=torch.uint8), torch.zeros(12, dtype=torch.int64), 2, "")
    data = Split(images, images, 0.0, 1.0)
    assert len(measures.calibration(data)) == 3
    assert len(measures.calibration(data, 2)) == 2
