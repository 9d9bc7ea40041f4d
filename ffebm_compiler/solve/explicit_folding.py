"""A held norm behind a product is the same product with other weights, and costs a block nothing:

    scale * (W a + b - mean) / sqrt(var + eps) + shift = W' a + b',    W' = W * slope,  b' = (b - mean) * slope + shift

with ``slope = scale / sqrt(var + eps)`` of each output channel. W' and b' are computed once a relaxation, and the gradients of W, b,
scale and shift are those of W' and b', of the weights' size, where the norm itself would ask for ``W a`` at every position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ir import Coupling, Operation, Term
from ..ir.functions import held_norm

RANKS: Mapping[Callable[..., Any], int] = {F.linear: 2, F.conv1d: 3, F.conv2d: 4, F.conv3d: 5}
"""Products whose weight has the output channels first, and the dimensions of what they read where those channels are the norm's."""

PRECISE = (torch.float32, torch.float64)
"""Types whose weights may be rounded once more."""


def folded(coupling: Coupling) -> Coupling:
    """The coupling with each held norm that follows a product folded into that product's weights."""
    uses = Counter(o for t in coupling.terms for o in t.operands if isinstance(o, str))
    uses[coupling.output] += 1
    products = {t.name: t for t in coupling.terms if t.operation.function in RANKS and uses[t.name] == 1}
    norms = {t.name: p for t in coupling.terms if (p := _normed(t, products)) is not None}
    if not norms:
        return coupling
    gone = {p.name for p in norms.values()}
    terms = tuple(_folded(t, norms[t.name]) if t.name in norms else t for t in coupling.terms if t.name not in gone)
    return replace(coupling, terms=terms)


def _normed(term: Term, products: Mapping[str, Term]) -> Term | None:
    """The product that a held norm reads."""
    read = term.operands[0] if term.operation.function is held_norm else None
    return products.get(read) if isinstance(read, str) else None


def _folded(norm: Term, product: Term) -> Term:
    function = partial(
        _product_with_norm,
        product=product.operation.function,
        options=product.operation.options,
        norm=norm.operation.function,
        eps=norm.operation.options["eps"],
        rank=RANKS[product.operation.function],
    )
    operation = Operation(f"{product.operation.name} and norm", function, weighted=True)
    return Term(norm.name, operation, (*product.operands, *norm.operands[1:]), norm.origin)


def _product_with_norm(
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    *,
    product: Callable[..., Tensor],
    options: Mapping[str, Any],
    norm: Callable[..., Tensor],
    eps: float,
    rank: int,
) -> Tensor:
    if a.dim() != rank or weight.dtype not in PRECISE:
        return norm(product(a, weight, bias, **options), mean, variance, scale, shift, eps=eps)
    slope = torch.rsqrt(variance + eps)
    slope = slope if scale is None else slope * scale
    offset = -mean * slope if bias is None else (bias - mean) * slope
    offset = offset if shift is None else offset + shift
    return product(a, weight * slope.view(-1, *[1] * (weight.dim() - 1)), offset, **options)
