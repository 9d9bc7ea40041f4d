"""Which products are worth rounding: those with much to multiply, in all and for each number that they read or write."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import State
from ffebm_compiler.solve import BoundBlock
from ffebm_compiler.solve.explicit_narrow import NarrowProducts

PRODUCTS: dict[str, tuple[nn.Module, tuple[int, ...], bool]] = {
    "many rows": (nn.Linear(256, 256), (2048, 256), True),
    "few rows": (nn.Linear(1024, 1024), (8, 1024), False),
    "many positions": (nn.Conv2d(64, 64, 3, padding=1), (4, 64, 32, 32), True),
    "few in all": (nn.Conv2d(64, 64, 3, padding=1), (4, 64, 16, 16), False),
    "few channels": (nn.Conv2d(3, 8, 3, padding=1), (4, 3, 16, 16), False),
    "one by depth": (nn.Conv2d(64, 64, 3, padding=1, groups=64), (4, 64, 16, 16), False),
    "transposed": (nn.ConvTranspose2d(64, 64, 3), (4, 64, 32, 32), True),
    "one position": (nn.Conv2d(64, 64, 1), (4, 64, 1, 1), False),
}


def narrow_of(*layers: nn.Module, x: Tensor) -> tuple[NarrowProducts, State, Tensor]:
    """A block with one state of the values of x, and one that reads it through the layers."""
    first = nn.Linear(x.shape[-1], x.shape[-1])
    model = fc.convert(nn.Sequential(first, nn.Tanh(), *layers, nn.Tanh()), block_size=len(layers) + 1)
    (block,) = model.program.energy_blocks
    weights = {n: p.detach() for n, p in model.named_parameters()}
    bound = BoundBlock(block, {block.inputs[0]: x}, weights, {s.name: 1.0 for s in block.states})
    return NarrowProducts(bound), block.states[-1], torch.tanh(x)


@pytest.mark.parametrize("case", PRODUCTS)
def test_dense_products_alone_are_rounded(case: str) -> None:
    layer, shape, dense = PRODUCTS[case]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    narrow, state, s = narrow_of(layer, x=x)
    (source,) = state.drive.sources
    assert narrow.pays(state, {source: s}) == dense
    exact = narrow.bound.drive(state, {source: s})
    rounding = 2.0**-7 if dense else 1e-6
    assert float((narrow.drive(state, {source: s}) - exact).norm()) <= rounding * float(exact.norm())
    ahead, _ = narrow.push(state, {source: s})
    assert ahead is not None
    assert (ahead.dtype == torch.bfloat16) == dense, "whoever adds it to something else needs no copy of it"
    leaf = s.clone().requires_grad_()
    (back,) = torch.autograd.grad(narrow.bound.drive(state, {source: leaf}), leaf, exact.detach())
    found = narrow.pull(state, exact.detach())[source]
    assert float((found - back).norm()) <= rounding * float(back.norm())


def test_what_follows_a_product_reads_it_in_float32() -> None:
    x = torch.randn(4, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    narrow, state, s = narrow_of(nn.Conv2d(64, 64, 3, padding=1), nn.AvgPool2d(2), x=x)
    (source,) = state.drive.sources
    assert narrow.pays(state, {source: s})
    ahead, _ = narrow.push(state, {source: s})
    assert ahead is not None
    assert ahead.dtype == torch.float32
