"""A block without feedback, as one differentiable operator on the very code that relaxations and contrasts run.

With every reverse gain at zero a block's equilibrium is its feedforward pass and equilibrium propagation is
backpropagation:

    s_l = sigma_l(f_l(s_<l, x)),   c_l = sigma_l'(a_l) (e_l + sum_m J_lm^T c_m),   dtheta = sum_l d<c_l, f_l>/dtheta

with ``e_l`` the error that arrives at an output. So the program without feedback must be the user's own model in all
that a call does, and whatever sets them apart is a fault of the program. What feedback needs besides, the Jacobian J
itself, is held against its transpose on the way: ``<J d, c> = <d, J^T c>`` for a random d.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ir import State
from ..solve import BoundBlock, Differentiation, Gradients, Linearised, States

UNDERFLOW = 1e6
"""Products smaller than so many of a type's smallest numbers have lost digits."""


DRAWN = 65_537
"""Random numbers at a time: a prime, so that rows and columns repeat nothing."""


AT_ONCE = 262_144
"""Entries of an inner product that are turned into float64 at a time."""

SEEDS = 7_919
"""From here on: a user's own random numbers, which a coupling may be made of, begin at small seeds."""


class WithoutFeedback(BoundBlock):
    """A block whose reverse gains are all zero, whatever its layer weights."""

    def reverse_gain(self, source: str, target: str) -> float:
        return 0.0


@dataclass(frozen=True)
class Mismatch:
    """How far a Jacobian is from its transpose's transpose, relative to the products; ``eps`` is their rounding."""

    state: str
    relative: float
    eps: float


Heard = Callable[[Mismatch], None]


def without_feedback(bound: BoundBlock, differentiation: Differentiation, heard: Heard) -> dict[str, Tensor]:
    """A block's outputs without feedback. Its gradients are backpropagation's, by the block's own derivatives.

    Args:
        heard: called in the backward pass with how far each coupling is from its transpose.
    """
    bound = _unfed(bound)
    values = {**bound.inputs, **bound.weights}
    tensors = {k: v for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()}
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors.values()):
        outputs = _Feedforward.apply(bound, differentiation, heard, tuple(tensors), *tensors.values())
        return dict(zip(bound.block.outputs, outputs, strict=True))
    states = feedforward_states(bound)
    return {n: states[n] for n in bound.block.outputs}


def feedforward_states(bound: BoundBlock) -> States:
    """Every state, where a relaxation begins: by the operations of the model, which round as the model does.

    Sweeps may fold a norm into the product before it; what they relax to is held against the printed energy, which has
    the model's operations.
    """
    with torch.no_grad():
        return bound.detached().feedforward()


def backpropagated(linear: Linearised, errors: Mapping[str, Tensor], heard: Heard) -> Gradients:
    """The gradients, in what the linearisation was made for, of errors at the outputs."""
    arrived: States = dict(errors)
    total: Gradients = {}
    for state in reversed(linear.bound.block.states):
        if state.name not in arrived:
            continue
        cotangent = linear.tangents[state.name](arrived[state.name])
        pulled = linear.pull(state, cotangent)
        _add(total, linear.gradient(state, cotangent))
        _add(arrived, pulled)
        if pulled:
            eps = max(rounding_of(v) for v in (cotangent, *pulled.values()))
            heard(Mismatch(state.name, _apart(linear, state, cotangent, pulled), eps))
    return total


def rounding_of(value: Tensor) -> float:
    """Of a type, or of the coarser one that operations run in under mixed precision."""
    device, eps = value.device.type, torch.finfo(value.dtype).eps
    return max(eps, torch.finfo(torch.get_autocast_dtype(device)).eps) if torch.is_autocast_enabled(device) else eps


def _apart(linear: Linearised, state: State, cotangent: Tensor, pulled: Mapping[str, Tensor]) -> float:
    """``<J d, c> - <d, J^T c>`` for a random d, relative to the sizes of J d and c."""
    d = {n: _random(linear.states[n], i) for i, n in enumerate(pulled)}
    ahead, _ = linear.push(state, d)
    if ahead is None:
        return 0.0
    size = _length(ahead) * _length(cotangent)
    back = torch.stack([_inner(d[n], p) for n, p in pulled.items()]).sum()
    relative = (_inner(ahead, cotangent) - back).abs() / size
    return float(torch.where(size > UNDERFLOW * torch.finfo(ahead.dtype).tiny, relative, 0.0))


def _unfed(bound: BoundBlock) -> WithoutFeedback:
    return WithoutFeedback(bound.block, bound.inputs, bound.weights, bound.layer_weights)


def _linearised(
    bound: BoundBlock, states: States, differentiation: Differentiation, wanted: Sequence[str] = ()
) -> Linearised:
    """The block around its feedforward states, the winners of its maxima held as the nudged phases hold them."""
    return differentiation.linearise(bound.holding(bound.winners(states)), states, wanted)


def _add(total: dict[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, value in found.items():
        total[name] = total[name] + value if name in total else value


def _random(like: Tensor, seed: int) -> Tensor:
    """Random entries, which repeat after very many: to draw them anew takes longer than a layer does."""
    drawn = torch.randn(min(like.numel(), DRAWN), generator=torch.Generator().manual_seed(SEEDS + seed))
    times = -(-like.numel() // max(len(drawn), 1))
    return drawn.repeat(times)[: like.numel()].view(like.shape).to(like)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """``<a, b>`` in float64, of which no more is made at a time than fits a cache."""
    parts = zip(a.flatten().split(AT_ONCE), b.flatten().split(AT_ONCE), strict=True)
    return torch.stack([torch.dot(x.double(), y.double()) for x, y in parts]).sum()


def _length(a: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(a, dtype=torch.promote_types(a.dtype, torch.float32))
    return length


class _Feedforward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        bound: WithoutFeedback,
        differentiation: Differentiation,
        heard: Heard,
        names: tuple[str, ...],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.bound, ctx.differentiation, ctx.heard = bound.detached(), differentiation, heard
        states = ctx.bound.feedforward()
        ctx.names, ctx.found = names, states
        return tuple(states[n].clone() for n in bound.block.outputs)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor | None) -> tuple[Any, ...]:
        bound: WithoutFeedback = ctx.bound
        wanted = [n for n, needed in zip(ctx.names, ctx.needs_input_grad[4:], strict=True) if needed]
        arrived = {n: e for n, e in zip(bound.block.outputs, errors, strict=True) if e is not None}
        with torch.no_grad():
            linear = _linearised(bound, ctx.found, ctx.differentiation, wanted)
            gradients = backpropagated(linear, arrived, ctx.heard)
        return (None, None, None, None, *(gradients.get(n) for n in ctx.names))
