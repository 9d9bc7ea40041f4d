"""One block as one differentiable operator: relaxes in forward, runs the estimator in backward.

``loss.backward()`` then chains backpropagation through the digital parts with equilibrium propagation through the
blocks by itself. Gradients are *returned*, never written to ``.grad``, so that hooks and DDP see them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..estimate import Estimate, Estimator, FreePhase
from ..ir import IDENTITY, EnergyBlock
from ..solve import AUTOMATIC, BoundBlock, Contraction, Differentiation, Equilibrium, Relaxation, Tolerance, relax
from .first_derivatives import once, refuse_transforms
from .profiling import FREE, NUDGED, shown


@dataclass(frozen=True)
class BlockCall:
    """One use of a block in one forward pass.

    Attributes:
        block: the energy block.
        inputs, weights: what it reads.
        layer_weights: w_l, as they are for this forward and its backward.
        estimator: what backward runs.
        tolerance: when relaxations stop.
        free, nudged: called with what each phase found.
        settle: finds the free equilibrium; a backend that is no ideal solver has its own.
        read: what is read of an output state, by name; an error passes straight through it.
        differentiation: how the nudged phases find the derivatives of the interaction; those of the free phase are
            ``settle``'s own.
        contraction: what the gains certify of a sweep (:func:`ffebm_compiler.solve.contraction_of`).
    """

    block: EnergyBlock
    inputs: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    layer_weights: Mapping[str, float]
    estimator: Estimator
    tolerance: Tolerance
    free: Callable[[FreePhase], None] = lambda phase: None
    nudged: Callable[[EnergyBlock, Estimate], None] = lambda block, estimate: None
    settle: Callable[[BoundBlock, Tolerance], Equilibrium] = relax
    read: Callable[[str, Tensor], Tensor] = lambda name, state: state
    differentiation: Differentiation = AUTOMATIC
    contraction: Contraction | None = None

    @property
    def bound(self) -> BoundBlock:
        return BoundBlock(self.block, self.inputs, self.weights, self.layer_weights, contraction=self.contraction)

    def differentiable(self) -> dict[str, Tensor]:
        """The tensors that a gradient may flow to, inputs before weights."""
        tensors = {**self.inputs, **self.weights}
        return {k: v for k, v in tensors.items() if isinstance(v, Tensor) and v.is_floating_point()}

    def kept(self) -> BlockCall:
        """What backward keeps of it: no tensors (autograd saves them), no listener (it may hold later blocks' graph).

        A graph that holds itself is never freed.
        """
        saved = self.differentiable()
        inputs, weights = (
            {k: v for k, v in values.items() if k not in saved} for values in (self.inputs, self.weights)
        )
        return replace(self, inputs=inputs, weights=weights, free=_unheard, settle=relax)


def _unheard(phase: FreePhase) -> None:
    """Nobody listens."""


def run_block(call: BlockCall) -> dict[str, Tensor]:
    """The outputs of a block at its equilibrium, differentiable by the call's estimator.

    Raises:
        DerivativeError: in backward, where other derivatives than first ones, by ordinary backward passes, are asked
            for.
    """
    tensors = call.differentiable()
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors.values()):
        outputs = _Block.apply(call, tuple(tensors), *tensors.values())
        return dict(zip(call.block.outputs, outputs, strict=True))
    phase = free_phase(call)
    return {n: call.read(n, phase.states[n]) for n in call.block.outputs}


def out_of_sight() -> AbstractContextManager[None]:
    """What differentiates the interaction, unseen by saved-tensor hooks: activation checkpointing counts what a
    forward saves, and a second forward relaxes to the same states without measuring gains or verifying again."""
    context: AbstractContextManager[None] = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    return context


def free_phase(call: BlockCall) -> FreePhase:
    with out_of_sight(), shown(call.block, FREE):
        found = call.settle(call.bound, call.tolerance)
    bound = replace(call.bound.holding(found.winners), inside=found.inside)
    phase = FreePhase(bound, found.states, found.relaxation, call.tolerance, found.winners, call.differentiation)
    call.free(phase)
    return phase


def estimated(
    call: BlockCall,
    tensors: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    relaxation: Relaxation,
    winners: Mapping[str, Tensor],
    errors: Mapping[str, Tensor],
    wanted: Sequence[str],
    inside: Mapping[str, Tensor] = MappingProxyType({}),
) -> Estimate:
    """What the call's estimator makes of the errors at a block's outputs.

    Args:
        tensors: inputs and weights that the call was stripped of, by name.
        states, relaxation, winners: of the free phase.
        errors: by output.
        wanted: the inputs and weights whose gradients are asked for.
        inside: what the free phase has kept of pre-activations.
    """
    inputs = {**call.inputs, **{k: tensors[k] for k in call.block.inputs if k in tensors}}
    weights = {**call.weights, **{k: tensors[k] for k in call.block.weights if k in tensors}}
    bound = replace(replace(call, inputs=inputs, weights=weights).bound.holding(winners), inside=inside)
    phase = FreePhase(bound, dict(states), relaxation, call.tolerance, winners, call.differentiation)
    with shown(call.block, NUDGED):
        return call.estimator(phase, errors, wanted)


def _autocast(device: str) -> dict[str, Any]:
    """The mixed precision of the forward pass, which the nudged phases take up again."""
    return dict(device_type=device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device))


class _Block(torch.autograd.Function):
    """A block in autograd.

    An output without an activation is a copy of its state: PyTorch keeps no such value, so users may write into it.
    That of an activation is the very state, which PyTorch keeps as well.
    """

    @staticmethod
    def forward(ctx: Any, call: BlockCall, names: tuple[str, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        phase = free_phase(call)
        ctx.call, ctx.names, ctx.relaxation, ctx.winners = call.kept(), names, phase.relaxation, phase.winners
        ctx.inside = phase.bound.inside
        ctx.states, ctx.autocast = tuple(phase.states), _autocast(tensors[0].device.type)
        ctx.save_for_backward(*tensors, *phase.states.values())
        outputs = {n: call.read(n, phase.states[n]) for n in call.block.outputs}
        saved = (*tensors, *(phase.states[s.name] for s in call.block.states if s.potential == IDENTITY))
        return tuple(o.clone() if any(o is t for t in saved) else o for o in outputs.values())

    @staticmethod
    def backward(ctx: Any, *errors: Tensor | None) -> tuple[Any, ...]:
        """Outside of what is compiled, where the user's function that calls ``backward`` is."""
        return torch.compiler.disable(_nudged)(ctx, *errors)  # type: ignore[no-any-return]


def _nudged(ctx: Any, *errors: Tensor | None) -> tuple[Any, ...]:
    """The gradients of what :class:`_Block` was given."""
    call: BlockCall = ctx.call
    refuse_transforms([call.block], errors)
    saved = ctx.saved_tensors
    tensors = dict(zip(ctx.names, saved, strict=False))
    states = dict(zip(ctx.states, saved[len(ctx.names) :], strict=True))
    arrived = {n: e for n, e in zip(call.block.outputs, errors, strict=True) if e is not None}
    wanted = [n for n, needed in zip(ctx.names, ctx.needs_input_grad[2:], strict=True) if needed]
    with torch.no_grad(), torch.autocast(**ctx.autocast):
        estimate = estimated(call, tensors, states, ctx.relaxation, ctx.winners, arrived, wanted, ctx.inside)
    call.nudged(call.block, estimate)
    gradients = [estimate.gradients.get(n) for n in ctx.names]
    return (None, None, *once(call.block, gradients, [*tensors.values(), *arrived.values()]))
