"""An energy block as resistors, diodes and bidirectional amplifiers, with the same equilibrium.

A state m with the drive ``f_m = sum_l J_lm s_l + b`` gets an amplifier of voltage gain A_m in front of its resistors,
whose conductances, in units of the total conductance of a node, are

    P - N = J / A_m,    P, N >= 0         own_m = rows_m / A_m                      (rows_m = sum_k |J_mk| + |b_m|)

The amplifier returns ``back = A_m w_m / w_l`` times the current that its outputs draw into the source l, which thus
carries the load ``sum_m (w_m / w_l) A_m columns_lm``, ``columns_lm = sum_j |J_lm|_j``. With the leak to ground

    leak_l = 1 - own_l - load_l

the total at each node is 1 and Kirchhoff's law reads ``s_l = clip(f_l + sum_m (w_m / w_l) J_lm^T s_m)``: the
stationarity equation of the block's energy with the layer weights w. The leak must not be negative, which is what
signed weights cost:

    A_m = max(rows_m) / share,        w_l = max(A_m w_m columns_lm / (1 - own_l)) over nodes,       share = 1/2

Half is best: the reverse gain ``w_m / w_l <= share (1 - share) / (max rows_m max columns_lm)`` is then largest. As
``|J|_2^2 <= max rows max columns``, each loop gain ``w_m / w_l |J_lm|_2^2`` is at most 1/4: what resistors realise has
a strictly convex energy.

Sources: Kendall et al. 2020, arXiv 2006.01981 (nonlinear resistive networks, bidirectional amplifiers); Scellier 2024,
ICML, arXiv 2402.11674 (their energy as a quadratic program). The choice of A and w above is this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import OptionError, Problem
from ...ir import EnergyBlock, Potential
from ...rules.piecewise import CLIPS
from ...solve import BoundBlock, States
from .magnitudes import Devices, Edge, Sums, problems, sums

SHARE = 0.5
"""The part of a node's conductance that its own resistors may take."""


@dataclass(frozen=True)
class Realisation:
    """How a block's numbers become those of a resistive circuit.

    Conductances are in units of a node's total conductance as designed; the tensors have the shape of one sample (with
    a batch of 1).

    Attributes:
        amplification: voltage gain A_m of the amplifiers in front of each state's resistors; a resistor is ``weight /
            A_m``.
        layer_weights: w_l that the equilibrium is that of; never a larger reverse gain than was asked for.
        leak: conductance of each node to ground.
        own: the resistors into each node as designed, those of biases included.
        bias: the part of ``own`` that goes to the rails of the biases, at ``+-A_m`` times a value of 1.
        load: what each node's consumers draw, as designed.
    """

    amplification: Mapping[str, float]
    layer_weights: Mapping[str, float]
    leak: States = field(repr=False)
    own: States = field(repr=False)
    bias: States = field(repr=False)
    load: States = field(repr=False)

    def current_gain(self, source: str, target: str) -> float:
        """``A_m w_m / w_l``: how much of the current of m's resistors its amplifier returns into l."""
        return self.amplification[target] * self.layer_weights[target] / self.layer_weights[source]


def realise(bound: BoundBlock, share: float = SHARE, targets: Devices | None = None) -> Realisation:
    """The resistive circuit of a block.

    Args:
        bound: the block on an example input, with the layer weights that are wanted; they are raised until the load
            fits.
        share: the part of a node's conductance that its own resistors may take.
        targets: ``P + N`` that the devices of each weighted term are meant to have; ``|W|`` by default. Devices that
            can't go below a smallest conductance have more, which amplifiers and leaks are then designed for.

    Raises:
        OptionError: naming every layer that resistors and ideal diodes can't make.
    """
    require_resistive(bound.block)
    return _realisation(bound, sums(bound, targets), share)


def _realisation(bound: BoundBlock, magnitudes: Sums, share: float) -> Realisation:
    gain = {m: float(rows.amax()) / share or 1.0 for m, rows in magnitudes.rows.items()}
    own = {m: rows / gain[m] for m, rows in magnitudes.rows.items()}
    w: dict[str, float] = {}
    for state in reversed(bound.block.states):
        w[state.name] = _layer_weight(bound, state.name, own[state.name], gain, w, magnitudes)
    load = {n: _load(n, own[n], gain, w, magnitudes.columns, {}) for n in own}
    leak = {n: (1 - own[n] - load[n]).clamp(min=0) for n in own}  # beside 0 by a rounding
    bias = {n: magnitudes.biases[n] / gain[n] for n in own}
    return Realisation(gain, w, leak, own, bias, load)


def _layer_weight(
    bound: BoundBlock, name: str, own: Tensor, gain: Mapping[str, float], w: Mapping[str, float], magnitudes: Sums
) -> float:
    """The least w_l whose load leaves no node a negative leak, at reverse gains that are at most those asked for."""
    consumers = [m for source, m in bound.block.edges if source == name]
    if not consumers:
        return bound.layer_weights[name]
    drawn = torch.stack([gain[m] * w[m] * magnitudes.columns[name, m] for m in consumers]).sum(0)
    asked = max(w[m] * bound.layer_weights[name] / bound.layer_weights[m] for m in consumers)
    return max(asked, float((drawn / (1 - own)).amax()))


def _load(
    name: str,
    like: Tensor,
    gain: Mapping[str, float],
    w: Mapping[str, float],
    columns: Mapping[Edge, Tensor],
    factors: Mapping[Edge, Tensor],
) -> Tensor:
    total = torch.zeros_like(like)
    for (source, m), column in columns.items():
        if source == name:
            drawn = gain[m] * w[m] / w[name] * column
            total = total + (drawn * factors[source, m] if (source, m) in factors else drawn)
    return total


def totals(
    realisation: Realisation, bound: BoundBlock, devices: Devices, factors: Mapping[Edge, Tensor] | None = None
) -> States:
    """The conductance D that really meets at each node, by which its current is divided before the diodes hold it.

    Leaks stay as designed, so D is 1 where ``P + N = |W|``, and larger where both devices of a pair carry a smallest
    conductance.

    Args:
        devices: ``P + N`` of each weighted term, by the term's name, in units of its weights.
        factors: what errors make of the current gain of each (source, state), as a factor.
    """
    magnitudes = sums(bound, devices)
    gain, w = realisation.amplification, realisation.layer_weights
    return {
        n: leak + magnitudes.rows[n] / gain[n] + _load(n, leak, gain, w, magnitudes.columns, factors or {})
        for n, leak in realisation.leak.items()
    }


# --- what resistors can't make ----------------------------------------------------------------------------


def require_resistive(block: EnergyBlock) -> None:
    """Raises one OptionError that names every layer which resistors and ideal diodes can't make."""
    if refused := resistive_problems(block):
        raise OptionError(refused)


def resistive_problems(block: EnergyBlock) -> list[Problem]:
    """Each layer that resistors and ideal diodes can't make."""
    without_diodes = [
        Problem(f"layer {s.origin}", f"ideal diodes make no {s.potential.name}, only a clip", _remedy(s.origin.layer))
        for s in block.states
        if not has_diodes(s.potential)
    ]
    return [*without_diodes, *problems(block, _remedy)]


def _remedy(layer: str) -> str:
    kept = f'keep it digital: convert(..., digital=["{layer}"])' if layer else "make it a module, to keep that digital"
    return f'Give hardware with physics="hopfield", or {kept}.'


def has_diodes(potential: Potential) -> bool:
    """Whether ideal diodes make this activation: a clip of slope 1."""
    scale, shift = (potential.options.get(name, default) for name, default in (("scale", 1), ("shift", 0)))
    return potential.kind in CLIPS and (scale, shift) == (1, 0)
