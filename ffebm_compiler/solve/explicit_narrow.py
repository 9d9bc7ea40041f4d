"""Products in bfloat16, for starts and corrections that need few digits.

The second sweep of a certified block moves its states by some 1e-4 of their size, so a product of that move which is right to three
digits leaves an error of 1e-7: as iterative refinement (Higham 2002, chapter 12) keeps the precision of the first solution and
computes its corrections in a lower one. Where bfloat16 is multiplied much faster (by tensor cores, Intel's AMX, or the dot products of
AVX-512), that is most of a sweep's time. A product that reads its weights few times waits for memory, one of few multiplications
for its conversions, and both stay as they are.

    y = widened(product(rounded(a), rounded(W), rounded(b)))

A product that is a coupling's output stays in bfloat16: whoever adds it to something else needs no copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..ir import Operand, Operation, State, Term
from .binding import BoundBlock, States
from .explicit_plan import Plan
from .explicit_point import Point, point_of, sources_of, without_routed
from .linear_derivatives import rounded, widened
from .product_derivatives import CONVOLUTIONS, PRODUCTS

DENSE = 64
"""The multiplications for each number read or written, from which on a product waits for its arithmetic."""

LARGE = 10**8
"""The multiplications from which on a product gains more than the conversions of its factors take."""

UNITS = ("amx_bf16", "avx512_bf16")
"""What a processor multiplies bfloat16 with, faster than float32."""


def narrow_pays(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 much faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if device.type != "cpu" or capabilities is None:
        return False
    has = capabilities()
    return any(has.get(unit, False) for unit in UNITS)


def narrowed(point: Point) -> Plan:
    """The plan of a coupling whose dense products are in bfloat16; found once for its shapes."""
    plan = point.plan
    if "narrow" not in plan.variants:
        terms = tuple(new for t in plan.coupling.terms for new in _narrowed(t, point, t.name == plan.coupling.output))
        plan.variants["narrow"] = replace(plan, coupling=replace(plan.coupling, terms=terms))
    return plan.variants["narrow"]


def _narrowed(term: Term, point: Point, is_output: bool) -> Iterator[Term]:
    """A term, or the terms that round its factors, multiply and widen what comes out."""
    if not _is_dense(term, point):
        yield term
        return

    def made(part: str, function: Callable[..., Any], *operands: Operand) -> Term:
        return Term(f"{term.name}.{part}", Operation(function.__name__, function), operands, term.origin)

    factors = {i: made(f"rounded{i}", rounded, o) for i, o in enumerate(term.operands) if o is not None}
    yield from factors.values()
    product = replace(term, operands=tuple(factors[i].name if i in factors else None for i in range(3)))
    if is_output:
        yield product
        return
    product = replace(product, name=f"{term.name}.narrow")
    yield product
    yield replace(made("", widened, product.name), name=term.name)


def _is_dense(term: Term, point: Point) -> bool:
    """Whether a product has much to multiply, in all and for each number that it reads or writes."""
    function = term.operation.function
    if function not in PRODUCTS or len(term.operands) != 3:
        return False
    values, weight, above = (point.shape(o) for o in (*term.operands[:2], term.name))
    if function in CONVOLUTIONS:
        _, transposed = CONVOLUTIONS[function]
        multiplications = prod(values if transposed else above) * prod(weight[1:])
    else:
        multiplications = prod(values) * above[-1]
    return multiplications >= max(LARGE, DENSE * (prod(values) + prod(weight) + prod(above)))


@dataclass(frozen=True)
class NarrowProducts:
    """A block's linear couplings with their products in bfloat16; weights are rounded once."""

    bound: BoundBlock
    _points: dict[str, Point] = field(default_factory=dict, repr=False)
    _pays: dict[str, bool] = field(default_factory=dict, repr=False)

    def pays(self, state: State, sources: States) -> bool:
        if state.name not in self._pays:
            with torch.no_grad():
                wide = point_of(self.bound, state, sources_of(state, sources))
                plan = narrowed(wide)
            self._points[state.name] = wide.under(plan)
            self._pays[state.name] = plan.coupling.terms != wide.plan.coupling.terms
        return self._pays[state.name]

    def _at(self, state: State, sources: States) -> Point:
        """The coupling where its sources have these values; what depends on no state is computed once."""
        return self._points[state.name].moved_to(sources_of(state, sources))

    def drive(self, state: State, sources: States) -> Tensor:
        with torch.no_grad():
            f = self._at(state, sources).f
            f = f.clone() if not state.drive.sources else f
        return f.to(next(iter(sources.values())).dtype)

    def push(self, state: State, d: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
        moving = {n: d[n] for n in state.drive.sources if n in d}
        if not moving:
            return None, {}
        with torch.no_grad():
            return self._points[state.name].push(moving)[state.drive.output], {}

    def pull(self, state: State, d: Tensor) -> dict[str, Tensor]:
        if not state.drive.sources:
            return {}
        with torch.no_grad():
            return self._points[state.name].pull(d, state.drive.sources)

    def holding(self, winners: Mapping[str, Tensor]) -> NarrowProducts:
        points, pays = without_routed(self.bound, self._points), without_routed(self.bound, self._pays)
        return NarrowProducts(self.bound.holding(winners), points, pays)
