"""Norms from Lanczos iteration, against singular values: within the margin that certificates take for granted, whatever
the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ffebm_compiler.solve.lanczos import largest_singular_value
from ffebm_compiler.solve.loop_gain import SURE

Spectrum = Callable[[int], Tensor]


def spiked(n: int) -> Tensor:
    return torch.cat([torch.rand(n - 1).sqrt(), 1 + 0.5 * torch.rand(1)])


def clustered(n: int) -> Tensor:
    top = int(torch.randint(1, 10, ()))
    return torch.cat([0.9 * torch.rand(n - top), 1 - 0.05 * torch.rand(top)])


def nearly_equal(n: int) -> Tensor:
    return torch.cat([torch.full((n - 2,), float(0.5 + 0.47 * torch.rand(()))), torch.ones(2)])


SPECTRA: dict[str, Spectrum] = {
    "gaussian": lambda n: torch.linalg.svdvals(torch.randn(n, n)),
    "wide": lambda n: torch.linalg.svdvals(torch.randn(n, 3 * n)),
    "a spike above a bulk": spiked,
    "a cluster": clustered,
    "nearly equal": nearly_equal,
    "a power law": lambda n: torch.arange(1, n + 1.0) ** -torch.rand(()),
    "exponential": lambda n: torch.exp(-10 * torch.rand(n)),
    "equal": torch.ones,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_norms_are_within_the_margin_of_certificates(spectrum: str, dtype: torch.dtype) -> None:
    """The basis makes no difference to the iteration: a diagonal matrix and a random start stand for all."""
    torch.manual_seed(0)
    for n in (12, 40, 120, 400):
        for _ in range(5):
            values = SPECTRA[spectrum](n).to(dtype)
            found, direction = largest_singular_value(values.square().mul, torch.randn(n, dtype=dtype))
            exact = float(values.max())
            assert SURE * exact <= found <= exact * (1 + 1e-5)
            assert float((values * direction).norm()) == pytest.approx(found, rel=1e-3)


def test_a_map_of_zero_and_one_of_no_numbers() -> None:
    start = torch.randn(5)
    assert largest_singular_value(torch.zeros_like, start)[0] == 0
    assert math.isnan(largest_singular_value(lambda v: v * float("nan"), start)[0])
