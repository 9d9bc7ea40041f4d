"""Energy-based blocks in PyTorch: the solver relaxes them, the chosen estimator nudges them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..codegen import training_code
from ..errors import Problem
from ..ir import EnergyBlock
from ..model.bound_model import BoundModel
from ..model.first_use import FirstUse
from ..model.runner import Runner
from ..model.substrate import LayerWeights, Substrate
from ..solve import Relaxation
from ..train import BlockCall


class TorchEP:
    """The ideal substrate; one that differs from it in some answers may inherit the others."""

    refused: Mapping[str, Problem] = MappingProxyType({})

    def block_call(self, call: BlockCall, model: BoundModel) -> BlockCall:
        return call

    def ideal(self) -> Substrate:
        return self

    def gradient_source(self, model: BoundModel) -> str:
        return type(model.execution.estimator).__name__

    def training_code(self, model: BoundModel, weights_of: LayerWeights) -> str:
        """The free phases, nudged phases and contrasts of every block, spelled out."""
        name, weights = type(model.network).__name__, weights_of(model.program)
        return training_code(model.program, name, model.execution.estimator, weights)

    def not_settled(self, block: EnergyBlock, relaxation: Relaxation, phase: str) -> str | None:
        return None


def private_copy(model: Runner) -> Runner:
    """A model by itself, on the CPU and in PyTorch, with the gains that it has."""
    return model.copied(TorchEP(), FirstUse(), "cpu")


def torch_ep(model: BoundModel) -> TorchEP:
    """The backend of this name: PyTorch itself."""
    return TorchEP()
