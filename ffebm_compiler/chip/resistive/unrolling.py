"""A small block as an explicit circuit: every resistor of every coupling, for netlists and for tests.

With J the matrix of a coupling and M that of its magnitudes, in units of the weights,

    P = (M + J) / 2,    N = (M - J) / 2

are the resistors towards +A and -A times each source; the circuit has them divided by A (see ``realisation``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir import Coupling, State
from ...rules.norms import BATCH_NORM
from ...solve import BoundBlock
from ..hardware.circuit import Bank, Circuit
from ..hardware.circuit import Edge as Resistors
from .magnitudes import Devices, Edge, Magnitudes, given_terms, on_one_sample
from .realisation import Realisation


@dataclass(frozen=True)
class Matrices:
    """The unrolled couplings of a block, in units of the weights.

    Attributes:
        positive, negative: (n_target, n_source) by (source, state); sources are states, inputs and what is digital of
            these.
        constants: (n,) the drive of each state that comes from biases.
        biases: (n,) what its magnitudes add up to.
        driven: (n,) the values of the sources that are not states.
    """

    positive: Mapping[Edge, Tensor]
    negative: Mapping[Edge, Tensor]
    constants: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]
    driven: Mapping[str, Tensor]


def matrices(bound: BoundBlock, devices: Devices | None = None) -> Matrices:
    """The matrices of a small block, in float64; their cost is one pass for each neuron.

    Args:
        bound: the block on one sample, with the weights ``P - N`` that the devices amount to.
        devices: ``P + N`` of each weighted term; ideal ones by default.
    """
    sample = _in_double(on_one_sample(bound))
    sums = Magnitudes(sample, devices or {})
    positive, negative = dict[Edge, Tensor](), dict[Edge, Tensor]()
    constants, biases, driven = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for state in sample.block.states:
        zeros = sums.filled(state.drive, 0.0)
        constants[state.name] = _signed(sample, state.drive, zeros).detach().flatten()
        biases[state.name] = sums.total(state.drive, zeros).detach().flatten()
        for source, J, M in _jacobians(sample, sums, state, zeros):
            positive[source, state.name] = ((M + J) / 2).clamp(min=0)
            negative[source, state.name] = ((M - J) / 2).clamp(min=0)
            if source not in sums.states:
                driven[source] = {**sample.inputs, **sample.fixed}[source].flatten()
    return Matrices(positive, negative, constants, biases, driven)


def _in_double(bound: BoundBlock) -> BoundBlock:
    def double(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in values.items()}

    return BoundBlock(bound.block, double(bound.inputs), double(bound.weights), bound.layer_weights).detached()


def _signed(bound: BoundBlock, coupling: Coupling, driven: Mapping[str, Any]) -> Tensor:
    return coupling.evaluate({**bound.inputs, **driven}, bound.weights)


def _jacobians(
    bound: BoundBlock, sums: Magnitudes, state: State, zeros: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(source, J, M) of each source that reaches the state."""
    for source in _sources(state.drive, zeros):
        at = zeros[source]

        def along(leaf: Tensor, name: str = source) -> tuple[Tensor, Tensor]:
            driven = {**zeros, name: leaf}
            return _signed(bound, state.drive, driven), sums.total(state.drive, driven)

        J, M = (m.reshape(-1, at.numel()) for m in torch.autograd.functional.jacobian(along, at))
        yield source, J, M


def _sources(coupling: Coupling, driven: Mapping[str, Any]) -> list[str]:
    """What the resistors of a coupling are driven by; a weight that is computed drives none."""
    digital = set(given_terms(coupling))
    terms = [t for t in coupling.terms if t.name not in digital]
    weights = {o for t in terms for o in t.operands[1:] if t.operation.weighted or t.operation.kind is BATCH_NORM}
    read = {o for t in terms for o in t.operands if isinstance(o, str)} - weights or {coupling.output}
    return [n for n, v in driven.items() if n in read and isinstance(v, Tensor) and v.is_floating_point()]


def unroll(
    bound: BoundBlock,
    realisation: Realisation,
    devices: Devices | None = None,
    nudge: Mapping[str, Tensor] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Circuit:
    """The resistive circuit of a block on one sample, with bidirectional arrays.

    Args:
        bound: the block on one sample, with the weights ``P - N`` that its devices amount to.
        realisation: of its designed weights.
        devices: ``P + N`` of each weighted term; ideal ones by default.
        nudge: current drawn from the nodes of a state, ``beta delta / w``.
        labels: the user's names of values.
    """
    unrolled, known = matrices(bound, devices), dict(labels or {})
    order = {s.name: i for i, s in enumerate(bound.block.states)}
    edges = sorted(unrolled.positive, key=lambda e: order[e[1]])
    return Circuit(
        block=bound.block.name,
        physics="resistive",
        banks=tuple(_bank(s, unrolled, realisation, known, nudge or {}) for s in bound.block.states),
        edges=tuple(_resistors(e, bound.block.state(e[1]), unrolled, realisation) for e in edges),
        inputs=unrolled.driven,
        input_labels={n: known.get(n, n) for n in unrolled.driven},
    )


def _bank(
    state: State, unrolled: Matrices, r: Realisation, labels: Mapping[str, str], nudge: Mapping[str, Tensor]
) -> Bank:
    """A resistor to the rail of a bias is a current source beside a leak (Norton)."""
    n, zero = state.name, torch.zeros_like(unrolled.constants[state.name])
    return Bank(
        name=n,
        label=labels.get(n, state.origin.label),
        shape=tuple(r.leak[n].shape[1:]),
        potential=state.potential,
        layer_weight=r.layer_weights[n],
        offset=zero,
        gain=torch.ones_like(zero),
        limit=float("inf"),
        drive=unrolled.constants[n],
        nudge=nudge[n].to(zero).flatten() if n in nudge else zero,
        leak=r.leak[n].to(zero).flatten() + unrolled.biases[n] / r.amplification[n],
    )


def _resistors(edge: Edge, state: State, unrolled: Matrices, r: Realisation) -> Resistors:
    source, target = edge
    A = r.amplification[target]
    P, N = unrolled.positive[edge] / A, unrolled.negative[edge] / A
    back = r.current_gain(source, target) if source in r.layer_weights else None
    return Resistors(
        source=source,
        target=target,
        label=", ".join(t.origin.label for t in state.drive.layers) or state.origin.label,
        positive=P,
        negative=N,
        back_positive=P,
        back_negative=N,
        gain=A,
        back=None if back is None else P.new_full((P.shape[1],), back),
    )
