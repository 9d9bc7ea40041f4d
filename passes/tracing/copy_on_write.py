"""Runs on the model's own weights: what a forward writes is copied before, and put back after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...torch_private import TorchDispatchMode
from ..torch_private import schema_of, uncounted_writes

_HIDDEN = {
    torch.ops.aten.native_batch_norm.default: (3, 4),
    torch.ops.aten.cudnn_batch_norm.default: (3, 4),
    torch.ops.aten.miopen_batch_norm.default: (3, 4),
}
"""Operations that write operands without their schemas saying so, and the places of those."""


@contextmanager
def copied_on_write(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """While it is entered, operations may write the memory of some tensors; afterwards those hold again what they held.

    Autograd, which counts writes, is told of none of them.

    Yields:
        What the tensors held that were written so far, by name.
    """
    if not tensors:
        yield {}
        return
    places = {name: tensor.detach() for name, tensor in tensors.items()}
    mode = _CopyOnWrite(tensors)
    with uncounted_writes(tuple(tensors.values())):
        try:
            with mode, _CopyOnView(mode):
                yield mode.before
        finally:
            with torch.no_grad():
                for name, place in places.items():
                    if _memory(tensors[name]) != _memory(place):  # tensor.data = another
                        tensors[name].data = place
                    if name in mode.before:
                        place.copy_(mode.before[name])


class _CopyOnWrite(TorchDispatchMode):
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tensors = tensors
        self.before: dict[str, Tensor] = {}
        self._names: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            self._names.setdefault(_memory(tensor), []).append(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for place, name in _written_places(func):
            for tensor in _tensors(args, kwargs, place, name):
                self.keep(tensor)
        return func(*args, **kwargs)

    def keep(self, written: Tensor) -> None:
        for name in self._names.get(_memory(written), ()):
            if name not in self.before:
                self.before[name] = self.tensors[name].detach().clone()


_VIEWS = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
"""What gives a tensor's memory to code whose writes no operation tells of."""


class _CopyOnView(TorchFunctionMode):
    """Takes for written what a forward hands on to numpy or another library."""

    def __init__(self, written: _CopyOnWrite) -> None:
        super().__init__()
        self.written = written

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _VIEWS:
            self.written.keep(args[0])
        return func(*args, **(kwargs or {}))


def can_be_shared(tensor: Tensor) -> bool:
    """Whether a tensor has memory and a count of writes: not one of another class, or of inference mode."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_inference() and tensor.layout is torch.strided


def sharable(network: nn.Module) -> dict[str, Tensor]:
    """The parameters of a network that can be, by name."""
    return {n: p for n, p in network.named_parameters() if can_be_shared(p)}


def is_same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape are the same entries."""
    return _memory(a) == _memory(b) != 0 and a.storage_offset() == b.storage_offset() and a.stride() == b.stride()


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if can_be_shared(tensor) else 0


@cache
def _written_places(func: Any) -> tuple[tuple[int, str], ...]:
    """The operands that an operation writes: the place and the name of each."""
    arguments = schema_of(func).arguments
    return tuple(
        (i, a.name)
        for i, a in enumerate(arguments)
        if i in _HIDDEN.get(func, ()) or (a.alias_info is not None and a.alias_info.is_write)
    )


def _tensors(args: Any, kwargs: Mapping[str, Any], place: int, name: str) -> Iterator[Tensor]:
    given = args[place] if place < len(args) else kwargs.get(name)
    yield from (v for v in (given if isinstance(given, (list, tuple)) else (given,)) if isinstance(v, Tensor))
