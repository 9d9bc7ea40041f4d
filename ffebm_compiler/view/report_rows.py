"""What a report says, as data: a row for each block and each digital part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BlockRow:
    """An energy-based block.

    Attributes:
        layers: the user's names of its weighted layers; a layer used twice is named twice.
        states: the user's names of its states, with their potentials.
        couplings: pairs of states that act on each other, by the user's names.
        parameters: how many parameters it reads.
        held_norms: batch norms inside, whose running statistics are held.
        loop_gain: the largest loop gain of a coupling; None where it is not known.
        convex: whether its energy is certified strictly convex; None where the gains are not measured.
        certificate: the verdict in words.
        verified: the residuals of the compile-time check of its energy, if it was made.
    """

    name: str
    layers: tuple[str, ...]
    states: tuple[tuple[str, str], ...]
    couplings: tuple[tuple[str, str], ...]
    parameters: int
    held_norms: tuple[str, ...]
    loop_gain: float | None
    convex: bool | None
    certificate: str
    verified: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DigitalRow:
    """A digital part between blocks: its operations in order, each with its kind and the reason why it is digital."""

    name: str
    operations: tuple[tuple[str, str, str], ...]
    parameters: int


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters there are, each counted once.

    Attributes:
        analog: read by an energy block.
        digital: all others.
        both: of the analog ones, those that a digital part reads as well.
        unread: of the digital ones, those that nothing reads.
    """

    analog: int
    digital: int
    both: int
    unread: int


@dataclass(frozen=True)
class ReportRows:
    """All that a report says.

    Attributes:
        model: the class of the user's model.
        mode: ``"training"`` or ``"evaluation"``.
        tracer: ``"torch.fx"`` or ``"torch.export"``, or that the model is called as a whole.
        loop_gain: the bound; None for unit feedback.
        rows: blocks and digital parts in order of execution.
        parameters: the totals.
        trained_norms: digital batch norms, which use batch statistics while training.
        norm_statistics: the held batch norms, each with the statistics that it is held at.
        shared: parameters that several operations read, with the operations.
    """

    model: str
    mode: str
    tracer: str
    loop_gain: float | None
    rows: tuple[BlockRow | DigitalRow, ...]
    parameters: ParameterCount
    trained_norms: tuple[str, ...]
    norm_statistics: tuple[tuple[str, str], ...]
    shared: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def blocks(self) -> tuple[BlockRow, ...]:
        return tuple(r for r in self.rows if isinstance(r, BlockRow))

    @property
    def digital(self) -> tuple[DigitalRow, ...]:
        return tuple(r for r in self.rows if isinstance(r, DigitalRow))

    @property
    def held_norms(self) -> tuple[str, ...]:
        return tuple(n for b in self.blocks for n in b.held_norms)

    @property
    def reasons(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """Why operations are digital: each reason with its (part, operation) pairs, the most frequent first."""
        grouped: dict[str, list[tuple[str, str]]] = {}
        for row in self.digital:
            for label, _, reason in row.operations:
                grouped.setdefault(reason, []).append((row.name, label))
        return {r: tuple(ops) for r, ops in sorted(grouped.items(), key=lambda item: -len(item[1]))}
