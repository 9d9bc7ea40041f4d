"""Everything that one call of a model does, observed without leaving a trace.

The call is made on stand-ins for the model's parameters and buffers, its backward pass with fixed random cotangents, and whatever
it writes into attributes or draws from random generators is put back. Two ways to compute the same model are held against each
other by what is observed (:mod:`.comparison`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..nests import Part, is_tensor, map_nest
from ..passes.tracing.copy_on_write import can_be_shared, copied_on_write, sharable
from ..solve.iteration import peak
from ..torch_private import tree_map_only
from .module_state import RandomStates, only_looking, written
from .nested_values import flattened, form_of

Call = Callable[[tuple[Any, ...], Mapping[str, Any]], Any]


SEEDS = 104_729
"""Of cotangents, from here on: unlike those that models and tests draw their numbers by."""


@dataclass(frozen=True)
class Observation:
    """What a call did.

    Attributes:
        form: what it returned, without the tensors in it; None where that can't be taken apart.
        tensors: those, by their place.
        requires_grad: by place, whether a tensor has history.
        gradients: by the name of a parameter, or ``input x`` of an argument; None where nothing arrived; no entries where backward failed.
        registered: every parameter and buffer afterwards.
        attributes: what the call wrote into plain attributes, by path.
        randoms: where the random generators stood afterwards.
        backward_failure: what the backward pass raised.
    """

    form: Part | None
    tensors: Mapping[str, Tensor]
    requires_grad: Mapping[str, bool]
    gradients: Mapping[str, Tensor | None]
    registered: Mapping[str, Tensor]
    attributes: Mapping[str, Any]
    randoms: RandomStates = field(repr=False)
    backward_failure: Exception | None = None

    @cached_property
    def peaks(self) -> dict[str, float]:
        """The largest magnitude of each gradient; zero of none."""
        return {n: float(peak(g)) if g is not None and g.numel() else 0.0 for n, g in self.gradients.items()}


@contextmanager
def unseen() -> Iterator[None]:
    """Keeps what runs inside from hooks on saved tensors: activation checkpointing counts them."""
    with torch.autograd.graph.saved_tensors_hooks(_packed, _unpacked):
        yield


def _packed(tensor: Tensor) -> tuple[Tensor, int]:
    return tensor, tensor._version


def _unpacked(packed: tuple[Tensor, int]) -> Tensor:
    tensor, version = packed
    if tensor._version != version:
        raise RuntimeError("a tensor that the backward pass needs was overwritten in place")
    return tensor


@contextmanager
def without_own_hooks(network: nn.Module) -> Iterator[None]:
    """Takes the user's own hooks off all modules for a while: they may count calls, or keep what they see.

    The hooks that torch hangs on layers (weight norm, pruning) are part of the model, and stay.
    """
    before = [(m, name, vars(m)[name]) for m in network.modules() for name in _HOOKS if vars(m).get(name)]
    try:
        for module, name, hooks in before:
            kept = (
                (k, hook) for k, hook in hooks.items() if _module_of(hook).startswith(("torch.", "ffebm_compiler."))
            )
            vars(module)[name] = type(hooks)(kept)
        yield
    finally:
        for module, name, hooks in before:
            vars(module)[name] = hooks


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _module_of(hook: Any) -> str:
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


class _Through(nn.Module):
    """A module whose forward is any call that reads ``network``'s tensors, so that others can be put in their place."""

    def __init__(self, network: nn.Module, call: Call):
        super().__init__()
        self.network = network
        self.call = call
        self.training = network.training

    def forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return self.call(args, kwargs)


def observed(
    network: nn.Module,
    call: Call,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    shake: bool = False,
    dtype: torch.dtype | None = None,
) -> Observation:
    """What ``call(args, kwargs)`` does, whose parameters and buffers are those of ``network``.

    Args:
        shake: whether parameters and inputs are moved by a rounding each, to see what roundings do.
        dtype: of parameters, buffers and inputs, in place of their own.

    Raises:
        Exception: whatever the call raises; the network and the random generators are as before then, too.
    """
    state = _stand_ins(network)
    args, kwargs = leaves_like((args, dict(kwargs)))
    if dtype is not None:
        state, (args, kwargs) = _converted(state, dtype), _converted((args, kwargs), dtype)
    if shake:
        state, (args, kwargs) = _shaken(state), _shaken((args, kwargs))
    parameters = {} if shake or dtype is not None else sharable(network)  # those have memory of their own
    with only_looking(network) as before, without_own_hooks(network), copied_on_write(parameters) as overwritten:
        tensors_given = {f"network.{k}": v for k, v in state.items()}
        passed = tree_map_only(
            Tensor, Tensor.clone, (args, kwargs)
        )  # a forward may write into an argument, not into a leaf
        result = functional_call(_Through(network, call), tensors_given, passed)
        changed, randoms = written(before), RandomStates.now()
        tensors = flattened(result)
        gradients, failure = _gradients(tensors, {**state, **_inputs(args, kwargs)})
        now = {k: v for k in state if (v := tensors_given[f"network.{k}"]) is not None}  # a forward may assign None
        kept = {k: now[k].detach().clone() for k in overwritten if k in now}
    left = {k: kept[k] if k in kept else v.detach() for k, v in now.items()}
    return Observation(
        form_of(result),
        {k: _dense(v.detach()) for k, v in tensors.items()},
        {k: v.requires_grad for k, v in tensors.items()},
        gradients,
        left,
        changed,
        randoms,
        failure,
    )


def _stand_ins(network: nn.Module) -> dict[str, Tensor]:
    """Leaves in place of parameters and buffers: on the parameters' own memory, which may be large, and copies of buffers, which a call may write."""
    parameters = {
        n: nn.Parameter(p.detach(), p.requires_grad)
        if can_be_shared(p)
        else p.detach().clone().requires_grad_(p.requires_grad)
        for n, p in network.named_parameters()
    }
    return {**parameters, **{n: b.detach().clone() for n, b in network.named_buffers()}}


def leaves_like(values: Any) -> Any:
    """The same nest with tensors of its own; those that can have a gradient ask for one."""

    def leaf(v: Tensor) -> Tensor:
        own = v.detach().clone()
        return own.requires_grad_() if own.is_floating_point() or own.is_complex() else own

    return map_nest(values, is_tensor, leaf)


def _shaken(values: Any) -> Any:
    """The same nest with every entry that has a gradient moved by a rounding, up or down."""

    def shaken(v: Tensor) -> Tensor:
        if not v.is_floating_point():
            return v
        ups = torch.rand(v.shape, generator=torch.Generator().manual_seed(v.numel())).to(v.device) > 0.5
        moved = v.detach() * torch.where(ups, 1 + torch.finfo(v.dtype).eps, 1 - torch.finfo(v.dtype).eps).to(v.dtype)
        return moved.requires_grad_(v.requires_grad)

    return map_nest(values, is_tensor, shaken)


def _converted(values: Any, dtype: torch.dtype) -> Any:
    """The same nest with what is floating in another type."""

    def converted(v: Tensor) -> Tensor:
        return v.detach().to(dtype).requires_grad_(v.requires_grad) if v.is_floating_point() else v

    return map_nest(values, is_tensor, converted)


def _inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arguments that ask for a gradient, by their place in the call."""
    return {f"input {place}": v for place, v in flattened([*args, dict(kwargs)]).items() if v.requires_grad}


def _gradients(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor | None], Exception | None]:
    roots = [v for v in tensors.values() if v.requires_grad and (v.is_floating_point() or v.is_complex())]
    leaves = {n: v for n, v in wanted.items() if v.requires_grad and v.is_leaf}
    if not (roots and leaves):
        return dict.fromkeys(leaves), None
    cotangents = [_cotangent(v, i) for i, v in enumerate(roots)]
    try:
        found = torch.autograd.grad(roots, list(leaves.values()), cotangents, allow_unused=True)
    except Exception as failure:  # whatever a backward of the user's own raises
        return {}, failure
    return {n: g if g is None else _dense(g) for n, g in zip(leaves, found, strict=True)}, None


def _dense(gradient: Tensor) -> Tensor:
    """Of a sparse embedding, or of complex numbers, in entries that can be compared."""
    gradient = gradient.to_dense() if gradient.layout is not torch.strided else gradient
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


def _cotangent(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEEDS + seed)
    return torch.randn(like.shape, generator=generator).to(like)
