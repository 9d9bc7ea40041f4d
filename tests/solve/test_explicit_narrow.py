"""Which products are worth rounding: those with much to multiply, in all and for each number that they read or write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ffebm_compiler.solve.explicit_narrow import is_narrow, narrowed
from ffebm_compiler.solve.explicit_trace import traced

Product = Callable[[Tensor, Tensor], Tensor]

PRODUCTS: dict[str, tuple[Product, tuple[int, ...], tuple[int, ...], bool]] = {
    "many rows": (F.linear, (2048, 256), (256, 256), True),
    "few rows": (F.linear, (8, 1024), (1024, 1024), False),
    "matrices": (torch.bmm, (8, 256, 256), (8, 256, 256), True),
    "thin matrices": (torch.bmm, (64, 32, 32), (64, 32, 32), False),
    "many positions": (lambda x, w: F.conv2d(x, w, padding=1), (4, 64, 32, 32), (64, 64, 3, 3), True),
    "few in all": (lambda x, w: F.conv2d(x, w, padding=1), (4, 64, 16, 16), (64, 64, 3, 3), False),
    "few channels": (lambda x, w: F.conv2d(x, w, padding=1), (4, 3, 16, 16), (8, 3, 3, 3), False),
    "one by depth": (lambda x, w: F.conv2d(x, w, padding=1, groups=64), (4, 64, 16, 16), (64, 1, 3, 3), False),
    "transposed": (F.conv_transpose2d, (4, 64, 32, 32), (64, 64, 3, 3), True),
    "one position": (F.conv2d, (4, 64, 1, 1), (64, 64, 1, 1), False),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_dense_products_alone_are_rounded(case: str) -> None:
    product, x, w, dense = PRODUCTS[case]
    code = traced(lambda v: {"y": product(v["x"], v["w"])}, {"x": torch.zeros(x), "w": torch.zeros(w)})
    rounded = narrowed(code)
    assert is_narrow(rounded) == dense
    values = {"x": torch.randn(x), "w": torch.randn(w)}
    found, exact = rounded(values)["y"], code(values)["y"]
    assert (found.dtype == torch.bfloat16) == dense
    assert float((found - exact).abs().max()) <= (2.0**-7 if dense else 0.0) * float(exact.abs().max())


@pytest.mark.parametrize("case", ["many positions", "few channels", "few in all", "transposed"])
def test_so_are_their_transposes(case: str) -> None:
    product, x, w, dense = PRODUCTS[case]

    def back(values: dict) -> dict:
        with torch.enable_grad():
            inner = values["x"].detach().requires_grad_()
            (found,) = torch.autograd.grad(product(inner, values["w"]), inner, values["c"])
        return {"y": found}

    y = product(torch.zeros(x), torch.zeros(w))
    code = traced(back, {"x": torch.zeros(x), "w": torch.zeros(w), "c": torch.zeros_like(y)})
    assert is_narrow(narrowed(code)) == dense
    values = {"x": torch.randn(x), "w": torch.randn(w), "c": torch.randn(y.shape)}
    exact = code(values)["y"]
    assert float((narrowed(code)(values)["y"] - exact).abs().max()) <= 2.0**-7 * float(exact.abs().max())


def test_a_constant_of_the_code_stays() -> None:
    held = torch.ones(256, 256)
    code = traced(lambda v: {"y": v["x"] @ held}, {"x": torch.zeros(1024, 256)})
    assert narrowed(code)({"x": torch.ones(1024, 256)})["y"].eq(256).all()
