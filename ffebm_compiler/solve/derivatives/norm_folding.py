"""A held norm behind a product is the same product with other weights, and costs a block nothing:

    scale * (W a + b - mean) / sqrt(var + eps) + shift = W' a + b',    W' = W * slope,  b' = (b - mean) * slope + shift

with ``slope = scale / sqrt(var + eps)`` of each output channel. W' and b' are computed once a relaxation, and the gradients of W, b,
scale and shift are those of W' and b', of the weights' size, where the norm itself would ask for ``W a`` at every position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ir import Coupling, Operand, Operation, Origin, Term
from ...ir.functions import Sizes, added, held_norm, multiple, reshaped

RANKS: Mapping[Callable[..., Any], int] = {F.linear: 2, F.conv1d: 3, F.conv2d: 4, F.conv3d: 5}
"""Products whose weight has the output channels first, and the dimensions of what they give where those channels are the norm's."""


def folded(coupling: Coupling, ranks: Mapping[str, int]) -> Coupling:
    """The coupling with each held norm that follows a product folded into that product's weights.

    Args:
        ranks: the dimensions of what each term gives.
    """
    uses = Counter(o for t in coupling.terms for o in t.operands if isinstance(o, str))
    uses[coupling.output] += 1
    products = {t.name: t for t in coupling.terms if uses[t.name] == 1 and _is_product(t, ranks)}
    norms = {t.name: p for t in coupling.terms if (p := _normed(t, products)) is not None}
    if not norms:
        return coupling
    gone = {p.name for p in norms.values()}
    terms = [
        new
        for t in coupling.terms
        if t.name not in gone
        for new in (_folded(t, norms[t.name], ranks[t.name]) if t.name in norms else (t,))
    ]
    return replace(coupling, terms=tuple(terms))


def _is_product(term: Term, ranks: Mapping[str, int]) -> bool:
    return ranks.get(term.name, 0) == RANKS.get(term.operation.function)


def _normed(term: Term, products: Mapping[str, Term]) -> Term | None:
    """The product that a held norm reads."""
    read = term.operands[0] if term.operation.function is held_norm else None
    return products.get(read) if isinstance(read, str) else None


def _folded(norm: Term, product: Term, rank: int) -> Iterator[Term]:
    """The terms that compute W' and b', and the product with these."""
    a, weight, bias = product.operands
    _, mean, variance, scale, shift = norm.operands
    made: list[Term] = []

    def term(part: str, function: Callable[..., Any], *operands: Operand, **options: Any) -> str:
        made.append(_term(f"{norm.name}.{part}", function, operands, options, norm.origin))
        return made[-1].name

    slope = term("inverse", inverse_deviation, variance, eps=norm.operation.options["eps"])
    if scale is not None:
        slope = term("slope", torch.mul, slope, scale)
    wide = term("wide", reshaped, slope, shape=Sizes((-1, *[1] * (rank - 1))))
    offset = term("centre", multiple, mean, factor=-1) if bias is None else term("centre", added, bias, mean, alpha=-1)
    offset = term("offset", torch.mul, offset, slope)
    if shift is not None:
        offset = term("bias", added, offset, shift, alpha=1)
    weight = term("weight", torch.mul, weight, wide)
    yield from made
    yield Term(norm.name, product.operation, (a, weight, offset), norm.origin)


def _term(
    name: str, function: Callable[..., Any], operands: tuple[Operand, ...], options: dict[str, Any], origin: Origin
) -> Term:
    return Term(name, Operation(function.__name__, function, options), operands, origin)


def inverse_deviation(variance: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(variance + eps)
