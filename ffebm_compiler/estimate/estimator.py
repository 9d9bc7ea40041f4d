"""What an estimator is: errors at a block's outputs in, gradients of its weights and inputs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..solve import AUTOMATIC, BoundBlock, Differentiation, Gradients, Relaxation, States, Tolerance


@dataclass(frozen=True)
class FreePhase:
    """What the forward pass leaves to the backward one.

    Attributes:
        bound: the block, its inputs, weights and layer weights as they were.
        states: the free equilibrium.
        relaxation: how it was found.
        tolerance: when relaxations stop.
        winners: the winners of maxima that had to be held, which ``bound`` then holds too.
        differentiation: how the nudged phases and the contrast find the derivatives of the interaction.
    """

    bound: BoundBlock
    states: States
    relaxation: Relaxation
    tolerance: Tolerance
    winners: Mapping[str, Tensor] = field(default_factory=dict)
    differentiation: Differentiation = AUTOMATIC


@dataclass(frozen=True)
class Estimate:
    """Gradients, and the relaxations that they took."""

    gradients: Gradients
    relaxations: tuple[Relaxation, ...] = ()


@runtime_checkable
class Estimator(Protocol):
    """A way to get gradients out of a block."""

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        """The gradient of ``<s_out, errors>`` in each wanted input and weight."""
        ...
