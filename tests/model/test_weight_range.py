"""Layer weights beyond the range of numbers: an error, or a warning where a gradient would be lost."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.errors import GradientWarning
from ffebm_compiler.ffebm import FFEBM


def deep(layers: int, dtype: torch.dtype) -> FFEBM:
    """One block whose layer weights are 8 to the power of their depth: couplings of norm 1 at a loop gain of 1/8."""
    net = nn.Sequential(*[m for _ in range(layers) for m in (nn.Linear(3, 3), nn.ReLU())])
    for layer in net[::2]:
        nn.init.eye_(layer.weight)
        nn.init.constant_(layer.bias, 0.1)
    return fc.convert(net.to(dtype), block_size=layers, loop_gain=0.125)


def first_gradient(model: FFEBM, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    model(torch.rand(2, 3, generator=generator).to(dtype)).sum().backward()
    gradient = model.get_parameter("0.weight").grad
    assert gradient is not None
    return gradient


@pytest.mark.slow
def test_float32_is_warned_of_where_it_loses_the_gradient_and_float64_is_not() -> None:
    with pytest.warns(GradientWarning, match=r"block1 \(1 … 95\): the gradient of 1 will be lost in torch.float32"):
        assert not first_gradient(deep(48, torch.float32), torch.float32).isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first_gradient(deep(48, torch.float64), torch.float64).isfinite().all()


def test_within_the_range_float32_gives_the_gradient_of_float64() -> None:
    narrow, wide = (first_gradient(deep(25, d), d) for d in (torch.float32, torch.float64))
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-2, atol=0)


def test_nobody_is_warned_who_asks_for_no_gradient() -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        assert deep(40, torch.float32)(torch.ones(2, 3)).isfinite().all()


@pytest.mark.slow
def test_an_infinite_weight_is_an_error_that_names_the_block() -> None:
    model = deep(400, torch.float64)
    with pytest.raises(fc.OptionError, match=r"block1 \(1 … 799\): the weight of .* is beyond the range of numbers"):
        model(torch.ones(2, 3, dtype=torch.float64))
    certificate = model.blocks[0].certificate
    assert certificate is not None
    assert not certificate.convex
    assert math.isinf(certificate.coupling)
