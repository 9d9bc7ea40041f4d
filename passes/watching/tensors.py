"""Tensors and generators that a forward reads and that are not registered: in lists, attributes, files.

What the program reads by a name of its own (``_tensor_constant0``) has to be the same tensor still; then what is
written into it is seen. What became a number, or a copy of torch.export's, has to have the same values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from .paths import reach

Unregistered = Tensor | torch.Generator


@dataclass(frozen=True)
class TensorValue:
    """What stands for the values of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    digest: bytes


def value_of(tensor: Any) -> TensorValue | None:
    """The values of a tensor; None of what has none, such as a fake or a sparse one."""
    if not isinstance(tensor, Tensor):
        return None
    try:
        with torch.no_grad(), torch.inference_mode(False):
            entries = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    except (RuntimeError, TypeError, NotImplementedError, ValueError):
        return None
    return TensorValue(tuple(tensor.shape), tensor.dtype, hashlib.blake2b(entries.data).digest())


def is_same_tensor(tensor: Any, other: Any) -> bool:
    """Whether a tensor is another, or has its values: a copy that was moved may be of another type."""
    if tensor is other:
        return True
    if not (isinstance(tensor, Tensor) and isinstance(other, Tensor)) or tensor.shape != other.shape:
        return False
    return value_of(tensor.detach().to(other)) == value_of(other)


def read_live(network: nn.Module, graphs: Iterable[fx.Graph], weights: Iterable[str]) -> Mapping[int, frozenset[str]]:
    """The paths by which a program reads tensors when it runs, by the identity of these."""
    targets = {str(n.target) for graph in graphs for n in graph.nodes if n.op == "get_attr"}
    paths: dict[int, frozenset[str]] = {}
    for path in sorted({*targets, *weights}):
        value = _at(network, path)
        if isinstance(value, Unregistered):
            paths[id(value)] = paths.get(id(value), frozenset()) | {path}
    return paths


def _at(network: nn.Module, path: str) -> Any:
    """What is there; nothing where it would be computed: to ask for a weight of spectral norm moves its vectors."""
    before, _, name = path.rpartition(".")
    try:
        owner = reach(network, before) if before else network
        if isinstance(owner, nn.Module) and parametrize.is_parametrized(owner, name):
            return None
        return reach(network, path)
    except AttributeError:
        return None


def stand_ins(
    network: nn.Module, tensors: Mapping[str, Unregistered], live: Mapping[int, frozenset[str]]
) -> Iterator[tuple[str, str | None, TensorValue | None]]:
    """What each tensor at the end of a way has to be: that at a path of the program's, or of some values."""
    for way, tensor in tensors.items():
        if _at(network, way) is not tensor:  # forward has written it
            continue
        paths = live.get(id(tensor), frozenset())
        if paths and way not in paths:
            yield way, min(paths), None
        elif not paths and (value := value_of(tensor)) is not None:
            yield way, None, value
