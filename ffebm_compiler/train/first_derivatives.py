"""A block has first derivatives, by backward passes, and no others.

An estimator delivers numbers: relaxations to a tolerance have no history, so a derivative of its gradients (a gradient
penalty, a Hessian) would silently be zero. Whoever asks for one meets a :class:`~ffebm_compiler.errors.DerivativeError`
instead. To keep a graph (``create_graph=True``) and never differentiate it is no such question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor

from ..errors import DerivativeError, Problem
from ..ir import EnergyBlock

REMEDY = (
    "Take what needs it (a gradient penalty, a Hessian, one gradient a sample) from the network without feedback, "
    "model.network(x), whose parameters are the model's, or for a bundle from the model that it was compiled from; "
    "the rest of the loss may stay on the model."
)


def once(
    block: EnergyBlock, gradients: Sequence[Tensor | None], origins: Iterable[Tensor]
) -> tuple[Tensor | None, ...]:
    """What a block's backward returns: gradients that refuse, if a graph is kept, to be differentiated in ``origins``.

    Args:
        block: whose gradients they are.
        gradients: without history.
        origins: the inputs, weights and errors that they depend on.
    """
    history = [t for t in origins if t.requires_grad]
    if not (torch.is_grad_enabled() and history):
        return tuple(gradients)
    given = [g for g in gradients if g is not None]
    refusing = iter(_Refusing.apply(block, len(given), *given, *history))
    return tuple(None if g is None else next(refusing) for g in gradients)


class _Refusing(torch.autograd.Function):
    """Gradients as they are; their derivative is an error."""

    @staticmethod
    def forward(ctx: Any, block: EnergyBlock, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.block = block
        return tuple(t.view_as(t) for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Any, ...]:
        refuse_second(ctx.block)


def refuse_second(block: EnergyBlock) -> NoReturn:
    """Raises the :class:`DerivativeError` of a derivative of a block's gradients."""
    raise _missing(block, "has no second derivatives: its gradients are found by relaxing")


def refuse_forward_mode(blocks: Iterable[EnergyBlock], values: Iterable[Any]) -> None:
    """Raises a :class:`DerivativeError` where one of the tensors that blocks depend on carries a tangent."""
    if forward_mode._current_level < 0:  # private: no tensor carries one; without it each is asked, which takes time
        return
    if any(isinstance(v, Tensor) and forward_mode.unpack_dual(v).tangent is not None for v in values):
        for block in blocks:
            raise _missing(block, "has no derivatives in forward mode, only those of backward passes")


def refuse_transforms(blocks: Iterable[EnergyBlock], errors: Iterable[Tensor | None] = ()) -> None:
    """Raises a :class:`DerivativeError` where torch.func (``grad``, ``vmap``, ...) calls or differentiates blocks.

    ``errors`` are those of a backward pass, of which ``is_grads_batched`` and ``vectorize=True`` hand on many as one.
    """
    if not (_is_transforming() or any(e is not None and _is_many(e) for e in errors)):
        return
    for block in blocks:
        raise _missing(
            block,
            "has no derivatives within a transform of torch.func (grad, vmap, jvp, ...) or of many errors at once, "
            "only those of ordinary backward passes",
        )


def _is_transforming() -> bool:
    """There is no public way to ask: without it such a call fails in torch, with an error that names no block."""
    return bool(torch._C._are_functorch_transforms_active())


def _is_many(error: Tensor) -> bool:
    """Nor for this: whether a tensor stands for a batch of them."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(error))


def _missing(block: EnergyBlock, what: str) -> DerivativeError:
    layers = ", ".join(s.origin.label for s in block.states)
    return DerivativeError(Problem(f"{block.name} ({layers})", what, REMEDY))
