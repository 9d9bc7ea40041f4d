"""What of an ff-EBM becomes one ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..ir import EnergyBlock, Origin, Program
from ..solve import BoundBlock, Contraction, Tolerance
from ..train import attribute
from .relaxation_numbers import layer_weights_in, numbers_of
from .shapes import Shape, TensorLeaf


@dataclass(frozen=True)
class Model:
    """An ff-EBM in evaluation mode, as a function.

    Attributes:
        name: the class of the user's model.
        program, network: what it computes, with which tensors.
        example: the arguments of a call, by name; what is no tensor in it is the same in every call.
        pack: the result from the values of the program.
        layer_weights: w_l by state, by block.
        contractions: what the gains certify of a sweep, by block.
        tolerance: when a relaxation stops.
    """

    name: str
    program: Program
    network: nn.Module
    example: Mapping[str, Any]
    pack: Callable[[Mapping[str, Any]], Any]
    layer_weights: Mapping[str, Mapping[str, float]]
    tolerance: Tolerance
    contractions: Mapping[str, Contraction | None] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the model, a tied one under its first name."""
        return dict((*self.network.named_parameters(), *self.network.named_buffers()))

    def numbers(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        """The numbers of every block's relaxation, by name in the file; see :mod:`.relaxation_numbers`."""
        found: dict[str, Tensor] = {}
        for block in self.program.energy_blocks:
            (state,) = shapes[block.outputs[0]].leaves
            assert isinstance(state, TensorLeaf)
            weights, labels = self.layer_weights[block.name], self.program.labels
            found.update(
                numbers_of(block, weights, self.tolerance, state.dtype, labels, self.contractions.get(block.name))
            )
        return found

    @property
    def origins(self) -> Iterator[Origin]:
        """The user's operations, in order."""
        for step in self.program:
            if isinstance(step, EnergyBlock):
                yield from (o for s in step.states for o in (*(t.origin for t in s.drive.terms), s.origin))
            else:
                yield from step.origins

    def bound(self, block: EnergyBlock, values: Mapping[str, Any], numbers: Mapping[str, Tensor]) -> BoundBlock:
        """A block on values of the program, on the network's present tensors and on those numbers."""
        weights = {p: attribute(self.network, p) for p in block.weights}
        layer_weights: Mapping[str, Any] = layer_weights_in(numbers, block, self.program.labels)
        contraction = self.contractions.get(block.name)
        return BoundBlock(block, {n: values[n] for n in block.inputs}, weights, layer_weights, contraction=contraction)
