"""A block with its numbers: what a solver and an estimator work on.

The stationarity equations of ``E = sum_l w_l [G_l(s_l) - <s_l, f_l>]`` are

    s_l = sigma_l(a_l),     a_l = f_l(s_<l, x) + sum_m (w_m / w_l) J_lm^T s_m

with ``J_lm`` the Jacobian of f_m in s_l, over the consumers m of l: bottom-up drive plus top-down feedback with the
reverse gain ``w_m / w_l``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..ir import EnergyBlock, State
from .contraction import Contraction

States = dict[str, Tensor]


@dataclass(frozen=True)
class BoundBlock:
    """A block, the values it reads, and its layer weights.

    Attributes:
        block: the energy block.
        inputs: values from outside, tensors or sizes.
        weights: the model's tensors, by path.
        layer_weights: w_l, by state.
        fixed: terms that depend on no state, where they have been computed.
        contraction: what sweeps leave of the distance to the equilibrium at most, where the gains certify that.
        inside: where states that do not tell their slope have it at the free equilibrium, by :attr:`Potential.inside`;
            of those for which the free phase has kept it.
    """

    block: EnergyBlock
    inputs: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    layer_weights: Mapping[str, float]
    fixed: Mapping[str, Any] = field(default_factory=dict, repr=False)
    contraction: Contraction | None = None
    inside: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def detached(self) -> BoundBlock:
        """Without history, and with everything computed that does not depend on a state."""
        inputs = {k: v.detach() if isinstance(v, Tensor) else v for k, v in self.inputs.items()}
        weights = {k: v.detach() for k, v in self.weights.items()}
        fixed = _fixed_terms(self.block, inputs, weights)
        return replace(self, inputs=inputs, weights=weights, fixed=fixed)

    def with_layer_weights(
        self, layer_weights: Mapping[str, float], contraction: Contraction | None = None
    ) -> BoundBlock:
        """The block with other reverse gains."""
        return replace(self, layer_weights=layer_weights, contraction=contraction)

    def with_leaves(self, wanted: Sequence[str]) -> tuple[BoundBlock, dict[str, Tensor]]:
        """The block with fresh leaves in place of the wanted inputs and weights, everything else detached."""
        leaves = {
            n: (self.inputs[n] if n in self.inputs else self.weights[n]).detach().requires_grad_() for n in wanted
        }
        inputs = {k: leaves.get(k, v.detach() if isinstance(v, Tensor) else v) for k, v in self.inputs.items()}
        weights = {k: leaves.get(k, v.detach()) for k, v in self.weights.items()}
        return replace(self, inputs=inputs, weights=weights, fixed={}), leaves

    def winners(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The winners of every maximum over states, by the names that :meth:`holding` takes."""
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            for state in self.block.states:
                if state.drive.is_routed:
                    found.update(self.winners_of(state, states))
        return found

    def holding(self, winners: Mapping[str, Tensor]) -> BoundBlock:
        """This block with the winners of its maxima held: its energy is then one for all states."""
        if not winners:
            return self
        return replace(self, block=self.block.held(winners), inputs={**self.inputs, **winners})

    def drive(self, state: State, states: Mapping[str, Tensor]) -> Tensor:
        """f of a state."""
        return state.drive.evaluate({**self.fixed, **self.inputs, **states}, self.weights)

    def routed_drive(self, state: State, states: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """f of a state, and the winners of the maxima in it, by the names that :meth:`holding` takes."""
        return state.drive.routed({**self.fixed, **self.inputs, **states}, self.weights)

    def winners_of(self, state: State, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The winners of the maxima in f of one state, by the names that :meth:`holding` takes."""
        return state.drive.winners({**self.fixed, **self.inputs, **states}, self.weights)

    def reverse_gain(self, source: str, target: str) -> float:
        """w_m / w_l, the gain of the feedback from m to l."""
        return self.layer_weights[target] / self.layer_weights[source]

    def feedforward(self, inside: States | None = None) -> States:
        """The states without any feedback: where the free phase starts.

        Args:
            inside: is given :attr:`inside` of these states.
        """
        states: States = {}
        for state in self.block.states:
            a = self.drive(state, states)
            states[state.name] = s = state.potential.activation(a)
            if inside is not None and state.potential.inside is not None:
                inside[state.name] = state.potential.inside(a, s)
        return states

    def feedback(
        self, states: Mapping[str, Tensor], drives: Mapping[str, Tensor], create_graph: bool = False
    ) -> States:
        """Top-down feedback into each state, by vector-Jacobian products through ``drives``.

        Args:
            states: leaves that require grad, which ``drives`` were computed from.
            drives: f of each state.
        """
        names = [s.name for s in self.block.states if any(s.name == source for source, _ in self.block.edges)]
        targets = [s.name for s in self.block.states if s.drive.sources]
        if not targets:
            return {}
        pulled = torch.autograd.grad(
            [drives[m] for m in targets],
            [states[n] for n in names],
            [
                self.layer_weights[m] * states[m] if create_graph else (self.layer_weights[m] * states[m]).detach()
                for m in targets
            ],
            create_graph=create_graph,
            allow_unused=True,
        )
        return {n: p / self.layer_weights[n] for n, p in zip(names, pulled, strict=True) if p is not None}

    def stationarity(self, states: Mapping[str, Tensor]) -> States:
        """``a_l`` of every state at ``states``."""
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in states.items()}
            drives = {s.name: self.drive(s, leaves) for s in self.block.states}
            feedback = self.feedback(leaves, drives)
        return {n: (drives[n] + feedback[n] if n in feedback else drives[n]).detach() for n in drives}


def _fixed_terms(block: EnergyBlock, inputs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Every term that depends on no state, computed once for a whole relaxation."""
    fixed: dict[str, Any] = {}
    varying = {n for s in block.states for n in (s.name, *s.drive.sources)}
    with torch.no_grad():
        for state in block.states:
            for term in state.drive.terms:
                if term.name in fixed:
                    continue
                if any(o in varying for o in term.operands if isinstance(o, str)):
                    varying.add(term.name)
                else:
                    fixed[term.name] = term.evaluate({**inputs, **fixed}, weights)
    return fixed
