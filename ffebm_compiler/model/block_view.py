"""A block of a converted model, as its user sees it: layers, states, energy, certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..ir import Energy, EnergyBlock
from ..solve import Certificate, certify, unit_gains
from ..train import attribute
from .runner import Runner


@dataclass(frozen=True)
class BlockView:
    """One energy-based block of ``model``."""

    model: Runner
    block: EnergyBlock

    @property
    def name(self) -> str:
        return self.block.name

    @property
    def size(self) -> int:
        """The number of weighted layers."""
        return self.block.size

    @property
    def layers(self) -> tuple[str, ...]:
        """The user's names of the weighted layers."""
        return tuple(t.origin.label for t in self.block.layers)

    @property
    def states(self) -> tuple[str, ...]:
        """The user's names of the states: the layers whose outputs they are."""
        return tuple(s.origin.label for s in self.block.states)

    @property
    def energy(self) -> BlockEnergy:
        return BlockEnergy(self)

    @property
    def layer_weights(self) -> dict[str, float] | None:
        """w_l by the user's name of the state; None before the block is first used, when they are measured."""
        gains = self.model.gains(self.block)
        labels = self.model.program.labels
        return None if gains is None else {labels[k]: v for k, v in gains.layer_weights.items()}

    @property
    def certificate(self) -> Certificate | None:
        """Whether the energy is strictly convex; None before the block is first used."""
        gains = self.model.gains(self.block)
        return None if gains is None else certify(self.block, gains)

    def __repr__(self) -> str:
        return f"<{self.name}: {', '.join(self.layers)}; states {', '.join(self.states)}>"


@dataclass(frozen=True)
class BlockEnergy:
    """The energy of a block: ``str()`` is readable mathematics, ``latex()`` and :meth:`value` the same as LaTeX and number."""

    view: BlockView

    @property
    def _energy(self) -> Energy:
        return Energy(self.view.block, self.view.model.program.labels)

    def _layer_weights(self) -> Mapping[str, float] | None:
        gains = self.view.model.gains(self.view.block)
        return None if gains is None else gains.layer_weights

    def __str__(self) -> str:
        return self._energy.text(self._layer_weights())

    def latex(self) -> str:
        return self._energy.latex(self._layer_weights())

    def _repr_latex_(self) -> str:
        return f"$$\n{self.latex()}\n$$"

    def value(self, states: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Tensor:
        """E at the given states and inputs, summed over the batch.

        Args:
            states: one tensor a state, by the user's names (or the block's own, as :meth:`FFEBM.equilibrium` gives them).
            inputs: the values that the block reads, likewise.

        Raises:
            KeyError: a state or an input is missing.
        """
        block, labels = self.view.block, self.view.model.program.labels
        by_name = {s.name: _named(states, s.name, labels) for s in block.states}
        read = {n: _named(inputs, n, labels) for n in block.inputs}
        weights = {p: attribute(self.view.model.network, p) for p in block.weights}
        return self._energy.value(by_name, read, weights, self._layer_weights() or unit_gains(block).layer_weights)


def _named(values: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> Any:
    label = labels.get(name, name)
    for key in (name, label):
        if key in values:
            return values[key]
    raise KeyError(f"no value for {label!r}; given: {', '.join(map(str, values))}")
