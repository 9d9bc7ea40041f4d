"""What energy-based blocks run on: a solver, a chip, whatever relaxes to the minimum of an energy and can be nudged.

The runner of a model goes through the program and runs its digital parts. For each energy-based block it makes a
:class:`~ffebm_compiler.train.BlockCall`, which says how one use of the block settles (``settle``), what is read of the
states that it settles to (``read``) and where the gradients come from (``estimator``, which nudges it). A substrate
replaces there what it does in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from ..errors import Problem
from ..ir import EnergyBlock, Program
from ..solve import Relaxation
from ..train import BlockCall
from .bound_model import BoundModel

LayerWeights = Callable[[Program], Mapping[str, Mapping[str, float] | None]]
"""w_l of the states of each block of a program, by the block's name; None where they are not measured yet."""


@runtime_checkable
class Substrate(Protocol):
    """What the blocks of a model run on; :class:`ffebm_compiler.backends.TorchEP` has every answer of the ideal one."""

    @property
    def refused(self) -> Mapping[str, Problem]:
        """The methods of :class:`ffebm_compiler.FFEBM` that make no sense here, and what to say of each."""
        ...

    def block_call(self, call: BlockCall, model: BoundModel) -> BlockCall:
        """One use of a block here, from the one that the ideal solver makes of it."""
        ...

    def ideal(self) -> Substrate:
        """The solver with the same weights, to compare with."""
        ...

    def gradient_source(self, model: BoundModel) -> str:
        """Where the gradients of the blocks come from, in a few words."""
        ...

    def training_code(self, model: BoundModel, weights_of: LayerWeights) -> str:
        """The source of ``training_step(model, x, y, loss_fn)`` in the present mode.

        Args:
            weights_of: finds the layer weights of a program's blocks, to show them.
        """
        ...

    def not_settled(self, block: EnergyBlock, relaxation: Relaxation, phase: str) -> str | None:
        """What to say of a phase that ended before its block had settled; None is the solver's own sentence."""
        ...
