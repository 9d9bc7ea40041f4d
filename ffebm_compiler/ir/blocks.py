"""The two kinds of step of an ff-EBM, and the program that alternates them (Nest & Ernoult, arXiv 2409.03306).

x_k = F_k(s_{k-1})                         a DigitalBlock
s_k = argmin_s E_k(s, theta_k, x_k)        an EnergyBlock
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import fx

from .coupling import Coupling, Term
from .origin import Origin
from .portable import Plain
from .potential import Potential


@dataclass(frozen=True)
class State(Plain):
    """A state ``s`` of a block, with its potential and its drive ``f`` from earlier states and inputs."""

    name: str
    potential: Potential
    drive: Coupling
    origin: Origin


@dataclass(frozen=True)
class EnergyBlock(Plain):
    """A block with the energy ``E = sum_l w_l [G_l(s_l) - <s_l, f_l(s_<l, x; theta)>]``.

    Attributes:
        name: ``"block1"``, ``"block2"``, ... in the order of execution.
        states: in topological order: a drive reads earlier states only.
        inputs: names of the values read from outside, tensors or sizes.
        outputs: names of the states that are read outside.
        held_norms: the batch norms inside, whose running statistics are held.
    """

    name: str
    states: tuple[State, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    held_norms: tuple[Origin, ...] = ()

    @cached_property
    def weights(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p for s in self.states for p in s.drive.weights))

    @cached_property
    def layers(self) -> tuple[Term, ...]:
        """The weighted terms, each once, in order."""
        terms = {t.name: t for s in self.states for t in s.drive.layers}
        return tuple(terms.values())

    @property
    def size(self) -> int:
        """The number of weighted layers; a layer used twice counts twice."""
        return len(self.layers)

    @cached_property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Pairs (l, m) of states such that f_m reads s_l."""
        return tuple((source, s.name) for s in self.states for source in s.drive.sources)

    @cached_property
    def coupling_weights(self) -> tuple[str, ...]:
        """The paths of the weights that states are coupled by."""
        return tuple(dict.fromkeys(p for s in self.states if s.drive.sources for p in s.drive.weights))

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """By state l, the states m whose f_m reads s_l, in order."""
        found: dict[str, list[str]] = {s.name: [] for s in self.states}
        for source, target in self.edges:
            found[source].append(target)
        return {n: tuple(m) for n, m in found.items()}

    @property
    def has_feedback(self) -> bool:
        return bool(self.edges)

    @cached_property
    def is_routed(self) -> bool:
        """A maximum is taken over states, so the winner may change while the block relaxes."""
        return any(s.drive.is_routed and s.drive.sources for s in self.states)

    @cached_property
    def key(self) -> str:
        """The names of its states, which tell it from the other blocks of a model, of either mode."""
        return ",".join(s.name for s in self.states)

    def state(self, name: str) -> State:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, State]:
        return {s.name: s for s in self.states}

    @cached_property
    def _alone(self) -> dict[str, EnergyBlock]:
        return {}

    def alone(self, name: str) -> EnergyBlock:
        """The block of one of its states, whose drive reads the others as they are given."""
        if name not in self._alone:
            state = self.state(name)
            self._alone[name] = EnergyBlock(self.name, (state,), state.drive.inputs, (name,))
        return self._alone[name]

    @cached_property
    def _held(self) -> dict[tuple[str, ...], EnergyBlock]:
        return {}

    def held(self, winners: Collection[str]) -> EnergyBlock:
        """This block with those winners of its maxima as further inputs: its couplings are then linear in the states.

        The same winners give the same block, so that what is known of its couplings is known in every pass.
        """
        key = tuple(winners)
        if key not in self._held:
            self._held[key] = self._holding(key)
        return self._held[key]

    def _holding(self, winners: tuple[str, ...]) -> EnergyBlock:
        states = tuple(replace(s, drive=s.drive.held(winners)) for s in self.states)
        return replace(self, states=states, inputs=tuple(dict.fromkeys((*self.inputs, *winners))))


@dataclass(frozen=True)
class DigitalBlock(Plain):
    """A feedforward part, run as ordinary PyTorch.

    Attributes:
        graph: placeholders are ``inputs``, the output is the tuple ``outputs``; modules and weights are
            addressed by their paths in the user's model.
        origins: the user's operations in it, in order.
        reasons: why each of them is digital, by label.
    """

    name: str
    graph: fx.Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    origins: tuple[Origin, ...]
    reasons: Mapping[str, str]


Step = EnergyBlock | DigitalBlock


@dataclass(frozen=True)
class Program(Plain):
    """The ff-EBM: steps in order of execution over one namespace of values.

    Attributes:
        inputs: the model's arguments, in order.
        steps: digital and energy blocks; every value is written before it is read.
        output: the model's result, a nest of containers with :class:`Ref` leaves.
    """

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    output: Any
    labels: Mapping[str, str]
    origins: Mapping[str, Origin]

    @cached_property
    def energy_blocks(self) -> tuple[EnergyBlock, ...]:
        return tuple(s for s in self.steps if isinstance(s, EnergyBlock))

    @property
    def digital_blocks(self) -> tuple[DigitalBlock, ...]:
        return tuple(s for s in self.steps if isinstance(s, DigitalBlock))

    @cached_property
    def by_name(self) -> Mapping[str, Step]:
        return {s.name: s for s in self.steps}

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


@dataclass(frozen=True)
class Ref:
    """A leaf of :attr:`Program.output`: the value of that name."""

    name: str


def references(value: Any) -> Iterator[str]:
    """The names that a nest of values refers to, in order, as often as they stand there."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from references(v)
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from references(v)
