"""The network that the passes work on: the user's model, copied, so that nothing that is done to it is done to theirs.

A *twin* has modules of its own, with modes and flags of their own, around the very tensors of the model: registries
of parameters and buffers are the same objects, so what one side replaces or moves (``.to()``) is replaced for the
other too.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import OptionError, Problem

_REGISTRIES = ("_parameters", "_buffers")
FRAMES = 10
"""Of Python's stack that a level of nested modules takes at most: three when it runs, seven copied, eight traced."""


@contextmanager
def room_for(model: nn.Module) -> Iterator[None]:
    """Raises Python's limit on recursion for a while, so that a model that runs also compiles."""
    limit = sys.getrecursionlimit()
    depth = max(name.count(".") for name, _ in model.named_modules())
    sys.setrecursionlimit(limit + FRAMES * depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def copy_network(model: nn.Module, share: bool = False) -> nn.Module:
    """A copy of a model, or a twin that shares its tensors.

    Raises:
        OptionError: the model holds what can't be copied; for a twin also, that it makes copies of its own parameters.
    """
    network = _copied(model, _shared(model) if share else {})
    if share:
        _check_shared(model, network)
        # the tracer may add constants, which are none of the model's
        network.__dict__["_buffers"] = dict(model._buffers)
    return network


def share_root(model: nn.Module, network: nn.Module) -> None:
    """Lets a twin that has no buffers of its own share the registry of the root too."""
    if network._buffers.keys() == model._buffers.keys():
        network.__dict__["_buffers"] = model._buffers


def _shared(model: nn.Module) -> dict[int, Any]:
    """What a deep copy takes as it is, by identity."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for name in _REGISTRIES:
            registry = vars(module)[name]
            memo.update((id(v), v) for v in (registry, *registry.values()) if v is not None)
        memo.update((id(v), v) for v in vars(module).values() if isinstance(v, Tensor) and v.is_leaf)
    return memo


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        return copy.deepcopy(model, memo)
    except Exception as failure:  # whatever the user's own tensors and handles raise
        computed = (
            f"attribute {name or 'model'}.{key}"
            for name, m in model.named_modules()
            for key, value in vars(m).items()
            if isinstance(value, Tensor) and not value.is_leaf
        )
        remedy = (
            "Use torch.nn.utils.parametrizations for weight_norm and spectral_norm, and keep no computed tensor, file "
            "or lock in the model."
        )
        what = f"can't be copied: {str(failure).splitlines()[0]}"
        raise OptionError(Problem(next(computed, "model"), what, remedy)) from failure


def _check_shared(model: nn.Module, network: nn.Module) -> None:
    ours = dict((*network.named_parameters(), *network.named_buffers()))
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if ours.get(name) is not value:
            what = "is copied by the model's own __deepcopy__, so copy=False can't share it"
            remedy = "Convert with copy=True, or let __deepcopy__ look into its memo."
            raise OptionError(Problem(f"parameter {name}", what, remedy))
