"""A block of resistors on a chip: what its devices, off their targets, make of the conductance at each node.

Amplifiers and leaks are designed for the conductances that the devices are meant to have, the smallest conductance of
both of a pair included: every node then has the conductance 1, and the network settles to the equilibrium of the
block's energy. The devices as they are carry errors, so a node of conductance D settles to its currents divided by D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ...solve import BoundBlock
from ..resistive.magnitudes import Pair
from ..resistive.realisation import Realisation, realise, totals
from .chip import Chip, device_paths, mapped_terms


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
    realisation = designed(chip, bound)
    amplifiers = chip.amplifiers(bound.block, states)
    factors = {edge: a.gain for edge, a in amplifiers.items()}
    return Nodes(realisation, totals(realisation, bound, pairs(chip, bound), factors))


def designed(chip: Chip, bound: BoundBlock) -> Realisation:
    """Amplifiers and leaks for the conductances that a chip's devices are meant to have."""
    return realise(bound, targets=_pairs(bound, chip.target_sum))


def pairs(chip: Chip, bound: BoundBlock) -> dict[str, Pair]:
    """``P + N`` of each layer's devices as they are, by term."""

    def present(path: str) -> Tensor:
        positive, negative = chip.halves(path)
        return positive + negative

    return _pairs(bound, present)


def _pairs(bound: BoundBlock, sum_of: Callable[[str], Tensor]) -> dict[str, Pair]:
    made = {term.name: device_paths(term) for term in mapped_terms(bound.block)}
    return {n: Pair(sum_of(weight), None if bias is None else sum_of(bias)) for n, (weight, bias) in made.items()}
