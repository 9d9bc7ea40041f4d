"""A compiled model in its present mode, with its present weights: what a run, a check or a file reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..compiled import Compiled, ModeProgram
from ..ir import EnergyBlock, Program, Ref, Weight
from ..solve import EXPLICIT, BoundBlock, Differentiation, unit_gains
from ..train import attribute
from .change_watch import ChangeWatch
from .execution import Execution
from .nested_values import map_leaves


class BoundModel:
    """A compiled model, and how it runs.

    Attributes:
        compiled: a program for each mode.
        network: what the programs read parameters, buffers and layers of.
        execution: estimator, tolerance and loop gain.
        training: the mode. The network's own may be another: a user's ``train`` may keep layers in one mode.
        differentiation: how the derivatives of a block's interaction are found.
        watch: notices changes since the conversion.
    """

    def __init__(self, compiled: Compiled, execution: Execution):
        self.compiled = compiled
        self.network = compiled.network
        self.execution = execution
        self.training = compiled.network.training
        self.differentiation: Differentiation = EXPLICIT
        self.watch = ChangeWatch(compiled)

    @property
    def mode(self) -> ModeProgram:
        """The program of the current mode, and how it is called."""
        return self.compiled.modes[self.training]

    @property
    def program(self) -> Program:
        return self.compiled.modes[self.training].program

    def train(self, mode: bool = True) -> None:
        """Changes the mode in the way of the user's model, which may keep some of its layers in one."""
        self.network.train(mode)
        self.training = mode

    def require_unchanged(self) -> None:
        """Looks whether what the program was made from is still so.

        Raises:
            ChangedError: with every layer, attribute and hook that has changed since conversion.
        """
        self.watch.require_unchanged(self.training)

    def bound(self, block: EnergyBlock, values: Mapping[str, Any]) -> BoundBlock:
        """A block with the values and weights that it reads, at unit feedback."""
        inputs = {n: values[n] for n in block.inputs}
        return BoundBlock(block, inputs, {p: self._weight(p) for p in block.weights}, unit_gains(block).layer_weights)

    def _weight(self, path: str) -> Tensor:
        value = attribute(self.network, path)
        assert isinstance(value, Tensor), path
        may_change_before_backward = not isinstance(value, nn.Parameter) and not value.requires_grad
        return value.clone() if may_change_before_backward else value

    def pack_output(self, values: Mapping[str, Any]) -> Any:
        """The model's result from the computed values."""

        def leaf(value: Any) -> Any:
            if isinstance(value, Ref):
                return values[value.name]
            return attribute(self.network, value.path) if isinstance(value, Weight) else value

        return self.mode.signature.pack(map_leaves(self.program.output, leaf))
