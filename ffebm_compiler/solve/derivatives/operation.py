"""The derivatives of one operation ``y = f(v_0, ..., v_n)``, at the values of its operands.

    pull    J_i^T c
    push    sum_i J_i d_i
    bend    d/dv_i <b, sum_j J_j d_j>          zero where J is constant

A coupling is a short list of operations, so these three are all that its own derivatives are made of (:mod:`.explicit_point`). What the library
knows is written down in :mod:`.transposes`; any other operation is differentiated by :class:`ByDifferentiation`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ...ir import Operation

Parts = dict[int, Tensor]
"""By the position of an operand."""


class Call(Protocol):
    """One call of an operation.

    Attributes:
        notes: what a derivative keeps for the next time that it is asked at these values.
    """

    @property
    def operation(self) -> Operation: ...

    @property
    def arity(self) -> int: ...

    @property
    def notes(self) -> dict[Any, Any]: ...

    def value(self, i: int) -> Any:
        """The operand's value, which is computed for that."""
        ...

    def shape(self, i: int) -> torch.Size:
        """The operand's shape, which costs nothing."""
        ...


class Derivative:
    """The derivatives of one operation.

    Attributes:
        reads: the operands whose values the transpose reads; None for all of them.
        bends: the operands that J depends on; None for all of them.
        joint: whether others than the first may move, too.
    """

    reads: ClassVar[Collection[int] | None] = ()
    bends: ClassVar[Collection[int] | None] = ()
    joint: ClassVar[bool] = False

    def forward(self, call: Call) -> Any:
        """f itself."""
        return call.operation(*(call.value(i) for i in range(call.arity)))

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        raise NotImplementedError

    def push(self, call: Call, d: Parts) -> Tensor:
        raise NotImplementedError

    def bend(self, call: Call, d: Parts, b: Tensor, wanted: Collection[int]) -> Parts:
        """Nothing, where J depends on nothing."""
        return {}


@contextmanager
def recording() -> Iterator[None]:
    """Automatic differentiation, in inference mode as well."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def held(value: Any) -> Any:
    """A value without history, that automatic differentiation may save."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value.is_inference() else value.detach()


@dataclass(frozen=True)
class ByDifferentiation(Derivative):
    """An operation that nothing is known of: every derivative by automatic differentiation of its function."""

    reads = None
    bends = None
    joint = True

    def forward(self, call: Call) -> Any:
        return self._recorded(call)[1].detach()

    def pull(self, call: Call, c: Tensor, wanted: Collection[int]) -> Parts:
        leaves, y = self._recorded(call)
        return self._gradient(y, {i: leaves[i] for i in wanted}, c)

    def push(self, call: Call, d: Parts) -> Tensor:
        _, y = self._recorded(call)
        cotangent, back = self._transposed(call, d, torch.zeros_like(y))
        return self._gradient(list(back.values()), {0: cotangent}, [d[i] for i in back]).get(0, torch.zeros_like(y))

    def bend(self, call: Call, d: Parts, b: Tensor, wanted: Collection[int]) -> Parts:
        leaves, _ = self._recorded(call)
        _, back = self._transposed(call, d, b)
        curved = {i: g for i, g in back.items() if g.requires_grad}
        return self._gradient(list(curved.values()), {i: leaves[i] for i in wanted}, [d[i] for i in curved])

    def _recorded(self, call: Call) -> tuple[dict[int, Tensor], Tensor]:
        """Leaves in the place of all operands that are numbers, and f of them."""
        if "recorded" not in call.notes:
            with recording():
                read = [held(call.value(i)) for i in range(call.arity)]
                leaves = {
                    i: v.requires_grad_() for i, v in enumerate(read) if isinstance(v, Tensor) and v.is_floating_point()
                }
                call.notes["recorded"] = leaves, call.operation(*read)
        found: tuple[dict[int, Tensor], Tensor] = call.notes["recorded"]
        return found

    def _transposed(self, call: Call, d: Parts, b: Tensor) -> tuple[Tensor, Parts]:
        """``J_i^T b`` for the operands that move, as a function of b and of the operands; kept for the next d at this b."""
        key = ("transposed", *d)
        if key not in call.notes or call.notes[key][0] is not b:
            leaves, y = self._recorded(call)
            with recording():
                cotangent = held(b).to(y.dtype).requires_grad_()
                moving = {i: leaves[i] for i in d}
                found = torch.autograd.grad(y, list(moving.values()), cotangent, create_graph=True, allow_unused=True)
            back = {i: g for i, g in zip(moving, found, strict=True) if g is not None}
            call.notes[key] = b, cotangent, back
        return call.notes[key][1], call.notes[key][2]

    @staticmethod
    def _gradient(y: Any, leaves: Parts, c: Any) -> Parts:
        outputs = y if isinstance(y, list) else [y]
        if not leaves or not any(o.requires_grad for o in outputs):
            return {}
        found = torch.autograd.grad(y, list(leaves.values()), c, retain_graph=True, allow_unused=True)
        return {i: g for i, g in zip(leaves, found, strict=True) if g is not None}


BY_DIFFERENTIATION: Derivative = ByDifferentiation()
