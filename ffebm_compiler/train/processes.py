"""Training in several processes: who brings their gradients together.

A training step leaves gradients in ``.grad`` itself, where the hooks of ``DistributedDataParallel`` don't see them. In
a process group of more than one it is therefore refused, unless it runs in ``synchronised(model)``, which does for it
what ``DistributedDataParallel`` does for ``loss.backward()``, or in ``unsynchronised()``, for who reduces gradients
himself. A step taken apart, each process on its own gradient, would go wrong silently.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import Problem, SynchronisationError
from ..solve.fingerprint import fingerprint, fingerprints, is_sharded

BUCKET = 2**25
"""Bytes that are sent at once, at most, but for a tensor that is larger alone."""

_REDUCED, _APART = "synchronised", "unsynchronised"
_MODE: ContextVar[str | None] = ContextVar("ffebm_processes", default=None)
_ALIKE: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """On leaving, gradients are means over all processes and buffers process 0's, as in ``DistributedDataParallel``.

    Several training steps in one ``with`` accumulate, and are sent once. The first use for a model gives every process
    the weights of process 0. Outside of a process group, and in a group of one, nothing happens.

    >>> import torch, ffebm_compiler as fc
    >>> model = fc.convert(
    ...     torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)), block_size=2
    ... )
    >>> with fc.synchronised(model):
    ...     loss = model.training_step(torch.randn(3, 8), torch.zeros(3, 4), torch.nn.functional.mse_loss)

    Raises:
        SynchronisationError: processes have different models, a gradient can't be averaged, or weights were moved
            before it was.
    """
    if processes() == 1:
        yield
        return
    if model not in _ALIKE:
        make_alike(model)
        _ALIKE.add(model)
    before = fingerprint(model.parameters())
    with _mode(_REDUCED):
        yield
    average_gradients(model, fingerprint(model.parameters()) != before)
    share(model.buffers())


@contextmanager
def unsynchronised() -> Iterator[None]:
    """Training steps leave gradients as they are, to reduce by hand or to train another model in each process."""
    with _mode(_APART):
        yield


@contextmanager
def _mode(name: str) -> Iterator[None]:
    token = _MODE.set(name)
    try:
        yield
    finally:
        _MODE.reset(token)


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def require_synchronised() -> None:
    """Refuses a training step whose gradients nobody brings together.

    Raises:
        SynchronisationError: in a process group of several, outside of both contexts.
    """
    if processes() > 1 and _MODE.get() is None:
        raise SynchronisationError(
            Problem(
                "training_step",
                f"leaves each of the {processes()} processes of this process group a gradient of its own, "
                "and they would train apart",
                "Write `with fc.synchronised(model): model.training_step(...)`, which averages gradients when "
                "it is left; or train by loss.backward() through DistributedDataParallel(model); or, to "
                "reduce gradients yourself, `with fc.unsynchronised():`.",
            )
        )


def require_apart(where: str) -> None:
    """Refuses what takes an optimizer's step before gradients could be brought together.

    Raises:
        SynchronisationError: in a process group of several, but for :func:`unsynchronised`.
    """
    if processes() > 1 and _MODE.get() != _APART:
        raise SynchronisationError(
            Problem(
                where,
                f"moves the weights in each of the {processes()} processes of this process group "
                "by a gradient of its own",
                "Train it in one process; or, to train another model in each process, `with fc.unsynchronised():`.",
            )
        )


# ---- what processes send each other -----------------------------------------------------------------------------


def make_alike(model: nn.Module) -> None:
    """Gives every process the parameters and buffers of process 0.

    Raises:
        SynchronisationError: they have other names or shapes, in every process alike.
    """
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    mine = {n: _described(t) for n, t in held.items()}
    everyones: list[Any] = [None] * processes()
    dist.all_gather_object(everyones, mine)
    problems = [p for rank, theirs in enumerate(everyones) for p in _differences(everyones[0], theirs, rank)]
    problems += [
        Problem(n, "is sharded", "Train by loss.backward(): sharding reduces gradients by hooks of its own.")
        for n, t in held.items()
        if is_sharded(t)
    ]
    if problems:
        raise SynchronisationError(problems)
    share(held.values())


def _described(tensor: Tensor) -> str:
    kind = "trained" if tensor.requires_grad else "held"
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}, {kind}"


def _differences(first: dict[str, str], other: dict[str, str], rank: int) -> Iterator[Problem]:
    for name in [*first, *(n for n in other if n not in first)]:
        a, b = first.get(name, "missing"), other.get(name, "missing")
        if a != b:
            yield Problem(name, f"is {b} in process {rank} and {a} in process 0", "Make the same model in each.")


def average_gradients(model: nn.Module, has_moved: bool = False) -> None:
    """The mean of each gradient over all processes; one that no process has stays away.

    Args:
        has_moved: whether weights of this process are others than when its gradients were begun.

    Raises:
        SynchronisationError: a gradient is sparse, or processes have moved weights apart, in every process alike.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trained:
        return
    kinds = [[p.grad is not None, _is_sparse(p.grad)] for p in trained.values()]
    everyones = torch.tensor([[has_moved, False], *kinds], dtype=torch.int32)
    everyones = everyones.to(next(iter(trained.values())).device)
    dist.all_reduce(everyones)
    (have_moved, _), *kinds = everyones.tolist()
    if have_moved:
        _require_equal(trained)
    found = dict(zip(trained, kinds, strict=True))
    if sparse := [n for n, (_, is_sparse) in found.items() if is_sparse]:
        remedy = "Make the layer with sparse=False, or reduce gradients yourself within fc.unsynchronised()."
        raise SynchronisationError(Problem(n, "has a sparse gradient, which is not averaged", remedy) for n in sparse)
    averaged = [trained[n] for n, (some, _) in found.items() if some]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in averaged]
    for numbers in _buckets(gradients):
        flat = torch.cat([gradients[i].reshape(-1) for i in numbers]).div_(processes())
        dist.all_reduce(flat)
        parts = flat.split([gradients[i].numel() for i in numbers])
        for i, part in zip(numbers, parts, strict=True):
            averaged[i].grad = part.view_as(gradients[i])


def _require_equal(weights: dict[str, nn.Parameter]) -> None:
    """Weights may move while gradients are computed, by a forward that bounds them, but alike in every process."""
    everyones: list[Any] = [None] * processes()
    dist.all_gather_object(everyones, fingerprints([p] for p in weights.values()))
    apart = [n for n, *numbers in zip(weights, *everyones, strict=True) if len({*numbers}) > 1]
    if apart:
        remedy = "Call optimizer.step() behind `with fc.synchronised(model):`, where gradients have been averaged."
        raise SynchronisationError(Problem(n, "was moved within it, by each process on its own", remedy) for n in apart)


def _is_sparse(gradient: Tensor | None) -> bool:
    return gradient is not None and gradient.layout != torch.strided


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Every process gets the values of process 0, to the bit and of any type."""
    held = [*tensors]
    for numbers in _buckets(held):
        parts = [held[i].detach().reshape(-1).view(torch.uint8) for i in numbers]
        flat = torch.cat(parts)
        dist.broadcast(flat, 0)
        for i, part in zip(numbers, flat.split([len(p) for p in parts]), strict=True):
            held[i].copy_(part.clone().view(held[i].dtype).view(held[i].shape))


def _buckets(tensors: list[Tensor]) -> Iterator[list[int]]:
    """Numbers of tensors that are sent together: of one device and type, and not too large."""
    open_: dict[Any, list[int]] = defaultdict(list)
    sizes: dict[Any, int] = defaultdict(int)
    for i, tensor in enumerate(tensors):
        kind = tensor.device, tensor.dtype
        open_[kind].append(i)
        sizes[kind] += tensor.nbytes
        if sizes[kind] >= BUCKET:
            yield open_.pop(kind)
            sizes.pop(kind)
    yield from open_.values()


__all__ = ["require_apart", "require_synchronised", "synchronised", "unsynchronised"]
