"""Batch norms that the user's code calls as functions, held in the model itself as blocks hold them: the two can then be compared while training.

A layer is held by its mode. A function is told by the running mean that it is given, and called with ``training=False`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ..ir import Program, Weight
from ..ir.functions import held_norm
from ..passes.watching.attribute_tokens import MISSING
from ..passes.watching.paths import reach

_MEAN, _TRAINING = "running_mean", "training"
_PLACES: Mapping[Callable[..., Any], tuple[int, int]] = {F.batch_norm: (1, 5), torch.batch_norm: (3, 5)}
"""Where these functions take the mean and the mode by position."""


def held_means(program: Program, is_layer: Callable[[str], bool]) -> frozenset[str]:
    """The paths of the means of norms that blocks hold, but for those that are layers, by their paths."""
    drives = (s.drive.terms for b in program.energy_blocks for s in b.states)
    norms = (t for terms in drives for t in terms if t.operation.function is held_norm and not is_layer(t.origin.layer))
    return frozenset(t.operands[1].path for t in norms if isinstance(t.operands[1], Weight))


def twice_used(program: Program, means: Collection[str]) -> Iterator[str]:
    """Those that a norm outside of blocks takes as well: which call is which can't be told from the mean."""
    nodes = (n for b in program.digital_blocks for n in b.graph.nodes if n.op == "get_attr")
    outside = {str(n.target) for n in nodes if any(u.target in _NORMS for u in n.users)}
    yield from sorted(m for m in means if m in outside)


_NORMS = (*_PLACES, torch.ops.aten.batch_norm.default)


class HeldFunctions(TorchFunctionMode):
    """Calls norms of some means with their running statistics.

    Args:
        network: whose tensors the means are.
        means: their paths.
    """

    def __init__(self, network: nn.Module, means: Collection[str]):
        super().__init__()
        self.network, self.means = network, means

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _PLACES and self._is_held(args, given, _PLACES[func][0]):
            at = _PLACES[func][1]
            args = (*args[:at], False, *args[at + 1 :]) if len(args) > at else args
            given = given if len(args) > at else {**given, _TRAINING: False}
        return func(*args, **given)

    def _is_held(self, args: tuple[Any, ...], given: Mapping[str, Any], at: int) -> bool:
        mean = args[at] if len(args) > at else given.get(_MEAN)
        return mean is not None and any(_at(self.network, path) is mean for path in self.means)


def _at(network: nn.Module, path: str) -> Any:
    try:
        return reach(network, path)
    except AttributeError:
        return MISSING
