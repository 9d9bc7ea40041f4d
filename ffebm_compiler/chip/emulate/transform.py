"""A block as it is on a chip: the same energy terms, their operations carried out by arrays, amplifiers and neurons.

The result is an energy block like any other, so the ordinary relaxation and the ordinary nudged phases run it. Its
weights are in its operations; what has no weight (pooling, reshaping, additions, held norms) is wiring, or an ideal
amplifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...ir import Coupling, EnergyBlock, Operation, State, Term
from .array import ArrayCall, ArrayWeights
from .neurons import Amplifier, Neurons
from .reading import Reading

Edge = tuple[str, str]


@dataclass(frozen=True)
class Parts:
    """The parts of a chip that a block uses.

    Attributes:
        arrays: by the name of the term that they carry out.
        neurons: by state.
        amplifiers: by (source, consumer); missing ones are ideal.
    """

    arrays: Mapping[str, ArrayWeights]
    neurons: Mapping[str, Neurons]
    amplifiers: Mapping[Edge, Amplifier]


def on_chip(block: EnergyBlock, parts: Parts, reading: Reading, with_neurons: bool = True) -> EnergyBlock:
    """The block as the chip carries it out, with the noise of one phase.

    Args:
        with_neurons: whether potentials become neuron circuits; a transient integrates these itself.
    """
    return replace(block, states=tuple(_state(s, parts, reading, with_neurons) for s in block.states))


def _state(state: State, parts: Parts, reading: Reading, with_neurons: bool) -> State:
    neurons = parts.neurons.get(state.name)
    potential = state.potential
    if with_neurons and neurons is not None:
        potential = neurons.potential(potential, reading)
    return replace(state, potential=potential, drive=_coupling(state, parts, reading))


def _coupling(state: State, parts: Parts, reading: Reading) -> Coupling:
    drive = state.drive
    amplified = {
        source: Term(f"{source}→{state.name}", Operation("amplifier", amplifier), (source,), state.origin)
        for source in drive.sources
        if (amplifier := parts.amplifiers.get((source, state.name))) is not None
    }
    terms = (*amplified.values(), *(_term(t, amplified, parts, reading) for t in drive.terms))
    output = amplified[drive.output].name if drive.output in amplified else drive.output
    mapped = {t.name for t in drive.terms if t.name in parts.arrays}
    weights = tuple(dict.fromkeys(p for t in drive.terms if t.name not in mapped for p in _weights(t)))
    return replace(drive, terms=terms, output=output, weights=weights)


def _term(term: Term, amplified: Mapping[str, Term], parts: Parts, reading: Reading) -> Term:
    operands = tuple(amplified[o].name if isinstance(o, str) and o in amplified else o for o in term.operands)
    weights = parts.arrays.get(term.name)
    if weights is None:
        return replace(term, operands=operands)
    call = ArrayCall(term.name, term.operation, weights, reading)
    return replace(term, operation=replace(term.operation, function=call, options={}), operands=operands[:1])


def _weights(term: Term) -> tuple[str, ...]:
    return tuple(o.path for o in term.operands if o is not None and not isinstance(o, str))
