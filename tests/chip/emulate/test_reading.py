"""The noise of phases: held within one, correlated between those of a sample, independent between samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.chip.emulate import Sample

N = 200_000


def sample(rho: float, seed: int = 0) -> Sample:
    return Sample(torch.Generator().manual_seed(seed), rho)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack((a, b)))[0, 1])


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 1.0])
def test_phases_of_a_sample_have_the_given_correlation_and_unit_variance(rho: float) -> None:
    like = torch.zeros(N, dtype=torch.float64)
    presentation = sample(rho)
    phases = [presentation.phase().noise("a", like) for _ in range(3)]
    for x in phases:
        assert abs(float(x.mean())) < 5 / math.sqrt(N)
        assert abs(float(x.var()) - 1) < 5 * math.sqrt(2 / N)
    for i in range(3):
        for j in range(i):
            assert abs(correlation(phases[i], phases[j]) - rho) < 5 / math.sqrt(N)


def test_samples_and_sources_are_independent() -> None:
    like = torch.zeros(N, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    one, other = Sample(generator, 0.8).phase(), Sample(generator, 0.8).phase()
    assert abs(correlation(one.noise("a", like), other.noise("a", like))) < 5 / math.sqrt(N)
    assert abs(correlation(one.noise("a", like), one.noise("b", like))) < 5 / math.sqrt(N)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.sampled_from([0.0, 0.4, 1.0]), st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_noise_is_held_within_a_phase_whatever_is_asked_between(rho: float, order: list[str]) -> None:
    phase = sample(rho).phase()
    like = torch.zeros(2, 3, dtype=torch.float64)
    first = {source: phase.noise(source, like).clone() for source in order}
    for source in reversed(order):
        assert torch.equal(phase.noise(source, like), first[source])


def test_one_seed_gives_the_same_numbers_in_every_type() -> None:
    double, single = (sample(0.5).phase().noise("a", torch.zeros(50, dtype=t)) for t in (torch.float64, torch.float32))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, single.double(), rtol=1e-6, atol=1e-6)
    assert not torch.equal(double, sample(0.5, seed=1).phase().noise("a", torch.zeros(50, dtype=torch.float64)))


def test_a_phase_does_not_change_once_a_later_one_has_begun() -> None:
    presentation, like = sample(0.5), torch.zeros(4, dtype=torch.float64)
    first = presentation.phase()
    before = first.noise("a", like).clone()
    presentation.phase().noise("a", like)
    assert torch.equal(first.noise("a", like), before)
