"""What a resistive network learns: gradients in its conductances, from voltages alone (equilibrium propagation).

A loss with the gradient ``delta`` at the output voltages nudges the network by the currents ``beta delta / w`` drawn
from them. With the voltages at +beta and -beta, and V the voltage drop across a resistor of bank m, the gradient of the
loss in its conductance g is

    dL/dg = lim_{beta -> 0} w_m / (2 beta) [ V(+beta)^2 / 2 - V(-beta)^2 / 2 ] = w_m h_V m_V

with ``h = (s(+beta) - s(-beta)) / (2 beta)`` and ``m`` the mean of both: each product of a half-difference and a mean,
so that no squares are subtracted. Where a pair realises a weight ``W = A (P - N)`` and the leaks make up for the change
of conductance at both of its ends (see ``realisation``), the squares cancel and what is left is the product of
activities:

    dL/dW = w_m / A [ V^2/2 - s_i^2/2 - A^2 s_k^2/2 ] = - w_m (h_i m_k + m_i h_k)

Sources: Kendall et al. 2020, arXiv 2006.01981 (voltage drops); Scellier & Bengio 2017, Front. Comput. Neurosci.
(equilibrium propagation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..hardware.circuit import Circuit
from ..hardware.circuit import Edge as Resistors
from .network import Drives


@dataclass(frozen=True)
class ConductanceGradients:
    """Gradients of the loss, summed over the batch.

    Attributes:
        positive, negative: of each edge of the circuit, in order, (n_target, n_source).
        leak: (n,) by bank.
        drive: (n,) in the constant current into each node, by bank.
    """

    positive: tuple[Tensor, ...]
    negative: tuple[Tensor, ...]
    leak: Mapping[str, Tensor]
    drive: Mapping[str, Tensor]


def nudges(circuit: Circuit, errors: Mapping[str, Tensor], beta: float) -> dict[str, Tensor]:
    """The currents ``beta delta / w`` to draw from output banks, with delta (batch, n) the loss's gradient there."""
    return {n: beta / circuit.bank(n).layer_weight * delta for n, delta in errors.items()}


@dataclass(frozen=True)
class Contrast:
    """Half-differences and means of the two nudged phases; inputs do not move.

    Attributes:
        half: (batch, n) by bank, ``(s(+beta) - s(-beta)) / (2 beta)``.
        mean: (batch, n) by bank and input.
    """

    half: Mapping[str, Tensor]
    mean: Mapping[str, Tensor]

    @staticmethod
    def between(
        circuit: Circuit,
        plus: Mapping[str, Tensor],
        minus: Mapping[str, Tensor],
        beta: float,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Contrast:
        half = {n: (s - minus[n]) / (2 * beta) for n, s in plus.items()}
        mean = {n: (s + minus[n]) / 2 for n, s in plus.items()}
        driven = Drives.for_circuit(circuit, inputs).inputs
        return Contrast(half, {**driven, **mean})

    def squares(self, name: str) -> Tensor:
        """(n,) the change of s^2 / 2."""
        if name not in self.half:
            return torch.zeros_like(self.mean[name][0])
        return (self.half[name] * self.mean[name]).sum(0)

    def products(self, target: str, source: str) -> Tensor:
        """(n_target, n_source) the change of the product of two voltages."""
        m = self.mean[source].expand(len(self.half[target]), -1)
        moved = self.half[target].T @ m
        return moved + self.mean[target].T @ self.half[source] if source in self.half else moved


def conductance_gradients(
    circuit: Circuit,
    plus: Mapping[str, Tensor],
    minus: Mapping[str, Tensor],
    beta: float,
    inputs: Mapping[str, Tensor] | None = None,
) -> ConductanceGradients:
    """The gradient in every conductance of the circuit.

    Args:
        plus, minus: (batch, n) voltages of the banks, nudged by ``nudges(circuit, errors, +beta)`` and ``-beta``.
        inputs: (batch, n) by input; the circuit's own by default.
    """
    contrast = Contrast.between(circuit, plus, minus, beta, inputs)
    w = {b.name: b.layer_weight for b in circuit.banks}
    pairs = [_pair(e, contrast, w[e.target]) for e in circuit.edges]
    return ConductanceGradients(
        tuple(p for p, _ in pairs),
        tuple(n for _, n in pairs),
        {n: w[n] * contrast.squares(n) for n in w},
        {n: -w[n] * contrast.half[n].sum(0) for n in w},
    )


def _pair(edge: Resistors, contrast: Contrast, w: float) -> tuple[Tensor, Tensor]:
    """Of both resistors of each pair: ``(A s_k -+ s_i)^2 / 2``, expanded: no (batch, n_target, n_source) arises."""
    A = edge.gain
    ends = contrast.squares(edge.target).unsqueeze(1) + A**2 * contrast.squares(edge.source)
    across = A * contrast.products(edge.target, edge.source)
    return w * (ends - across), w * (ends + across)


def weight_gradients(
    circuit: Circuit,
    plus: Mapping[str, Tensor],
    minus: Mapping[str, Tensor],
    beta: float,
    inputs: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """The gradient in each edge's weights ``W = A (P - N)``, where the leaks make up for what the pairs change."""
    contrast = Contrast.between(circuit, plus, minus, beta, inputs)
    return tuple(-circuit.bank(e.target).layer_weight * contrast.products(e.target, e.source) for e in circuit.edges)
