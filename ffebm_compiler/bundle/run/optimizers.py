"""Optimizers of a trainer: torch.optim's, fed with gradients that the training step has left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import OptionError, Problem, close_matches


@dataclass(frozen=True)
class OptimizerOptions:
    """Which optimizer, and its constants.

    Attributes:
        name: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        learning_rate: the step size.
        momentum: of sgd.
        betas: decay of the moments of adam and adamw.
        weight_decay: L2 penalty (sgd, adam), or decoupled decay (adamw).

    Raises:
        OptionError: with every option that can't be used.
    """

    name: str = "sgd"
    learning_rate: float = 1e-2
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        OptionError.raise_if([*self._problems()])

    def _problems(self) -> Iterator[Problem]:
        if self.name not in OPTIMIZERS:
            yield Problem("option optimizer", f"is {self.name!r}", close_matches(str(self.name), [*OPTIMIZERS]))
        for name, (is_fine, remedy) in _RANGES.items():
            if not is_fine(value := getattr(self, name)):
                yield Problem(f"option {name}", f"is {value!r}", remedy)
        if self.momentum and self.name in ("adam", "adamw"):
            yield Problem("option momentum", f"is not used by {self.name}", "Leave it out, or give betas=.")

    def make(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""
        return OPTIMIZERS[self.name](parameters, self)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_fraction(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rate": (lambda v: _is_number(v) and v > 0, "Give a positive number, such as 0.01."),
    "momentum": (_is_fraction, "Give a number from 0 to below 1, such as 0.9."),
    "betas": (
        lambda v: len(v) == 2 and all(map(_is_fraction, v)),
        "Give two numbers from 0 to below 1, such as (0.9, 0.999).",
    ),
    "weight_decay": (lambda v: _is_number(v) and v >= 0, "Give a number from 0, such as 1e-4."),
}

OPTIMIZERS: Mapping[str, Callable[[Sequence[nn.Parameter], OptimizerOptions], torch.optim.Optimizer]] = {
    "sgd": lambda p, o: torch.optim.SGD(p, o.learning_rate, momentum=o.momentum, weight_decay=o.weight_decay),
    "adam": lambda p, o: torch.optim.Adam(p, o.learning_rate, betas=o.betas, weight_decay=o.weight_decay),
    "adamw": lambda p, o: torch.optim.AdamW(p, o.learning_rate, betas=o.betas, weight_decay=o.weight_decay),
}
