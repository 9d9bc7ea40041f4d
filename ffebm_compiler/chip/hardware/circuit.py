"""One block as a circuit, unrolled to single neurons and couplings: what a netlist is written from.

Hopfield. A neuron i of bank l is a leaky node ``u_i`` with the output ``s_i = clip(sigma(gain_i (u_i + offset_i)),
-limit, limit)``:

    tau du_i/dt = -u_i + sum_k (P_ik - N_ik) s_k + drive_i - nudge_i + sum_j reverse_i (Pb_ji - Nb_ji) s_j

with k over the sources of the bank (earlier states, inputs), j over its consumers. Conductances are in units of
``siemens``, the conductance of a weight of 1, which is also each neuron's leak; voltages are in units of ``volts``.

Resistive. A node i of bank l is held in ``[lower, upper]`` by ideal diodes, and a bidirectional amplifier between a
source v and its resistors drives ``A v`` (A = ``gain`` of the edge, and ``-A v`` for the negative resistors) and
returns into the source ``back`` times the current that its outputs draw:

    C_i ds_i/dt = -leak_i s_i + sum_edges [ sum_k P_ik (A s_k - s_i) + N_ik (-A s_k - s_i) ] + drive_i - nudge_i
                 + sum_consumers back_i [ sum_j P_ji (s_j - A s_i) - N_ji (s_j + A s_i) ]

which at ``back = A w_m / w_l`` is the gradient of the dissipated power of each layer, weighted by w (Kendall et al.
2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ...ir import Potential


@dataclass(frozen=True)
class Bank:
    """The neurons of one state, flattened.

    Attributes:
        name, label: the block's name of the state, and the user's.
        shape: of the state without its batch dimension.
        potential: the activation.
        layer_weight: w_l.
        offset, gain: (n,) of each neuron; 0 and 1 for an ideal one.
        limit: supply limit of the output; inf for none.
        drive: (n,) constant current into each neuron: biases, and what no array of this circuit computes.
        nudge: (n,) current drawn from each neuron, ``beta delta / w``; zeros in the free phase.
        leak: (n,) resistive physics: conductance to ground, in units of ``siemens``. None for Hopfield, where it is 1.
    """

    name: str
    label: str
    shape: tuple[int, ...]
    potential: Potential
    layer_weight: float
    offset: Tensor
    gain: Tensor
    limit: float
    drive: Tensor
    nudge: Tensor
    leak: Tensor | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """What diodes hold a node of the bank in, in units of ``volts``: the potential's domain, within the supply."""
        return max(self.potential.lower, -self.limit), min(self.potential.upper, self.limit)


@dataclass(frozen=True)
class Edge:
    """The devices between a source (a bank or an input) and a bank, by unrolled matrix.

    Attributes:
        source, target: names of a bank or input, and of a bank.
        label: the user's name of the layer.
        positive, negative: (n_target, n_source), at least 0, in units of ``siemens``; the weight is their difference.
        back_positive, back_negative: what feedback passes through: the same tensors where the array is bidirectional.
        reverse: (n_source,) reverse gain ``w_m / w_l`` with its error (Hopfield); None for an input.
        gain: voltage gain A of the amplifier (resistive).
        back: (n_source,) current gain of the amplifier (resistive); None for an input.
    """

    source: str
    target: str
    label: str
    positive: Tensor
    negative: Tensor
    back_positive: Tensor
    back_negative: Tensor
    reverse: Tensor | None = None
    gain: float = 1.0
    back: Tensor | None = None


@dataclass(frozen=True)
class Circuit:
    """A block on one sample, in float64.

    Attributes:
        block: its name.
        physics: ``"hopfield"`` or ``"resistive"``.
        banks: in topological order.
        edges: from inputs and banks into banks.
        inputs: (n,) by name.
        input_labels: the user's name of each input.
        siemens: conductance of a weight of 1.
        volts: voltage of a value of 1.
        time_constant: R C of a neuron, in seconds; in resistive physics the C of a node times the resistance 1/siemens.
    """

    block: str
    physics: str
    banks: tuple[Bank, ...]
    edges: tuple[Edge, ...]
    inputs: Mapping[str, Tensor]
    input_labels: Mapping[str, str] = field(default_factory=dict)
    siemens: float = 1e-5
    volts: float = 0.1
    time_constant: float = 1e-7

    def bank(self, name: str) -> Bank:
        return next(b for b in self.banks if b.name == name)
