"""What a number stands for in a compiled graph: a model, or the options of a forward pass.

A graph holds tensors and numbers. So a model is enrolled under a number, as long as it lives, and a block is found by
``(model, mode, step)``; the options that a forward pass went by are noted under another, for its backward.
"""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..errors import InputError, Problem
from ..estimate import Estimate, Estimator
from ..ir import EnergyBlock
from ..solve import Differentiation, Tolerance
from .operator import BlockCall


class Model(Protocol):
    """What the operators need of a model."""

    differentiation: Differentiation

    @property
    def compiled(self) -> Any: ...

    def begin_run(self, values: Mapping[str, Any]) -> None: ...

    def block_call(
        self,
        block: EnergyBlock,
        values: Mapping[str, Any],
        *,
        weights: Mapping[str, Tensor] | None = None,
        trains: bool | None = None,
    ) -> BlockCall: ...

    def record_nudged(self, block: EnergyBlock, estimate: Estimate) -> None: ...


_MODELS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count(1)


def enrol(model: Any) -> int:
    """A number that the operators find a model by, as long as it lives."""
    number = next(_NUMBERS)
    _MODELS[number] = model
    return number


def find(number: int) -> Model:
    """The model of a number."""
    model: Model | None = _MODELS.get(number)
    if model is None:
        raise InputError(
            Problem(
                "a compiled graph",
                "belongs to a model that no longer exists in this process",
                "Compile the model again: a graph finds its blocks in the model that it was made from.",
            )
        )
    return model


def block_at(place: Sequence[int]) -> tuple[Model, EnergyBlock]:
    """The model and the block at (model, mode, step)."""
    number, training, step = place
    model = find(number)
    block = model.compiled.modes[bool(training)].program.steps[step]
    assert isinstance(block, EnergyBlock), place
    return model, block


OPTIONS_KEPT = 4096
"""A backward finds the options of its forward unless so many other estimators or tolerances have been used since."""

_OPTIONS: OrderedDict[int, tuple[Estimator, Tolerance]] = OrderedDict()


def noted(call: BlockCall) -> int:
    """A number for the estimator and tolerance of a forward pass, which its backward goes by."""
    for number, (estimator, tolerance) in reversed(_OPTIONS.items()):
        if estimator is call.estimator and tolerance == call.tolerance:
            return number
    number = next(_NUMBERS)
    _OPTIONS[number] = call.estimator, call.tolerance
    while len(_OPTIONS) > OPTIONS_KEPT:
        _OPTIONS.popitem(last=False)
    return number


def options_of(number: int, block: EnergyBlock) -> tuple[Estimator, Tolerance]:
    if number not in _OPTIONS:
        raise InputError(
            Problem(
                f"backward of {block.name}",
                f"comes more than {OPTIONS_KEPT} changes of estimator= or tolerance= after its forward",
                "Run backward before the options change so often.",
            )
        )
    return _OPTIONS[number]
