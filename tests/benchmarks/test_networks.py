"""The networks are what they are called, and their blocks stand where their norms do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.speed import networks, subjects
from benchmarks.speed.result import Options
from benchmarks.speed.subjects import Subject

QUICK = Options(quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize(("depth", "size"), [(6, 6), (6, 3), (6, 2), (12, 4), (12, 3), (12, 2)])
def test_a_splitting_network_falls_into_blocks_of_its_size(depth: int, size: int, unit: bool) -> None:
    subject = subjects.splitting(depth, size, unit, quick=True)
    model = subject.convert(subject.network(QUICK))
    assert [b.size for b in model.blocks] == [size] * (depth // size) + [1]
    assert sum(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in model.modules()) == depth // size


def test_the_splitting_networks_have_the_papers_widths() -> None:
    weighted = [m for m in networks.stacked(networks.SPLITTING[6], 2, "relu") if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [m.weight.shape[0] for m in weighted] == [128, 256, 256, 512, 512, 256, 10]
    deep = [m for m in networks.stacked(networks.SPLITTING[12], 2, "relu") if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [m.weight.shape[0] for m in deep] == [128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 256, 256, 10]


@pytest.mark.parametrize(
    "subject",
    [subjects.scaling(True, True), subjects.static(True, True), subjects.static(False, True)],
    ids=lambda s: s.label,
)
def test_fifteen_layers(subject: Subject) -> None:
    weighted = [m for m in subject.network(QUICK).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == 15 + (subject.name.startswith("scaling"))  # which has a classifier besides


def test_resnet18_has_its_parameters() -> None:
    assert sum(p.numel() for p in networks.resnet18().parameters()) == 11_689_512


def test_halved_layers_are_a_halved_slope() -> None:
    """clamp(a / 2, 0, 1) is the activation of the paper."""
    subject = subjects.splitting(6, 2, True, quick=True)
    torch.manual_seed(QUICK.seed)
    plain, halved = subject.build(), subject.network(QUICK)
    x: Tensor = torch.randn(4, 3, 32, 32)
    expected = x
    for layer in plain:
        expected = (expected / 2).clamp(0, 1) if isinstance(layer, nn.Hardtanh) else layer(expected)
    torch.testing.assert_close(halved(x), expected)


@pytest.mark.parametrize("name", subjects.known(True))
def test_known_networks_take_their_images(name: str) -> None:
    subject = subjects.known(True)[name]
    batch = subject.batch(QUICK, 2)
    assert subject.network(QUICK).eval()(batch.x).shape == (2, subject.classes)
    assert batch.y.max() < subject.classes


def test_a_subject_is_the_same_again_and_leaves_the_random_numbers_alone() -> None:
    subject = subjects.splitting(6, 2, False, quick=True)
    before = torch.get_rng_state()
    first, second = (subject.network(QUICK).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))
