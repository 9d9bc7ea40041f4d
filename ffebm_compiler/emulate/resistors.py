"""A block of resistors on a chip: what its devices, off their targets, make of the conductance at each node.

As designed every node has the conductance 1, and the network settles to the equilibrium of the block's energy. Its devices carry errors and
a smallest conductance each, so a node of conductance D settles to its currents divided by D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..ir import Weight
from ..resistive.magnitudes import Pair
from ..resistive.realisation import Realisation, realise, totals
from ..solve import BoundBlock
from .chip import Chip, mapped_terms


@dataclass(frozen=True)
class Nodes:
    """The nodes of a resistive block.

    Attributes:
        realisation: gains and leaks as designed.
        conductances: D by state, in units of the designed total; (1, *shape).
    """

    realisation: Realisation
    conductances: Mapping[str, Tensor]


def realised(chip: Chip, bound: BoundBlock, states: Mapping[str, Tensor]) -> Nodes:
    """The nodes of a block.

    Raises:
        OptionError: naming every layer that resistors and ideal diodes can't make.
    """
    realisation = realise(bound)
    amplifiers = chip.amplifiers(bound.block, states)
    factors = {edge: a.gain for edge, a in amplifiers.items()}
    return Nodes(realisation, totals(realisation, bound, pairs(chip, bound), None, factors))


def pairs(chip: Chip, bound: BoundBlock) -> dict[str, Pair]:
    """``P + N`` of each layer's devices, by term."""
    found: dict[str, Pair] = {}
    for term in mapped_terms(bound.block):
        _, weight, bias = term.operands
        assert isinstance(weight, Weight)
        sums = [None if not isinstance(o, Weight) else sum_of(chip, o.path) for o in (weight, bias)]
        assert sums[0] is not None
        found[term.name] = Pair(sums[0], sums[1])
    return found


def sum_of(chip: Chip, path: str) -> Tensor:
    positive, negative = chip.halves(path)
    return positive + negative
