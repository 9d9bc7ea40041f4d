"""Pass 3, legality: what may enter an energy-based block, and why everything else stays digital."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from ..errors import PartitionError, Problem
from ..rules import Reading, Refusal, Role
from .canonicalize import Canonical
from .choices import Choice, chosen
from .norm_statistics import NO_STATISTICS, statistics_of

KEPT_DIGITAL = "kept digital by digital="

NORMS = ("auto", "split", "held")


@dataclass(frozen=True)
class Legal:
    """Stage 3.

    Attributes:
        canonical: the stage before.
        roles: the role of each call in an energy; a call that is absent is digital.
        reasons: why a call is digital.
        insisted: the calls that the user insists be analog.
        norm: what to do with batch norms.
    """

    canonical: Canonical
    roles: Mapping[fx.Node, Role]
    reasons: Mapping[fx.Node, str]
    insisted: frozenset[fx.Node]
    norm: str


def legality(canonical: Canonical, digital: Choice = (), analog: Choice = (), norm: str = "auto") -> Legal:
    """Decides for each call whether it may be part of an energy.

    Raises:
        OptionError: a predicate fails.
        PartitionError: a layer that the user wants both digital and analog, or analog though it has no energy.
    """
    origins, readings = canonical.origins, canonical.readings
    kept_out = chosen(canonical, digital, "digital")
    insisted = chosen(canonical, analog, "analog")
    roles: dict[fx.Node, Role] = {}
    reasons: dict[fx.Node, str] = {}
    problems: list[Problem] = []
    for node, reading in readings.items():
        if node in kept_out:
            reasons[node] = KEPT_DIGITAL
            if node in insisted:
                what, remedy = "is named by both digital= and analog=", "Name it in one of them."
                problems.append(Problem(f"layer {origins[node].label}", what, remedy))
        elif isinstance(reading, Refusal):
            reasons[node] = reading.reason
            if node in insisted and isinstance(analog, Sequence):
                what = f"analog= insists on it, but {reading.reason}"
                remedy = "Remove it from analog=, or give a rule for it (docs/operations.md)."
                problems.append(Problem(f"layer {origins[node].label}", what, remedy))
        elif canonical.rules[node].role is Role.NORM:
            wanted = norm == "held" or node in insisted
            reason = None if wanted else _why_a_boundary(reading, canonical.network, norm)
            if reason is not None:
                reasons[node] = reason
            else:
                roles[node] = Role.COUPLING if wanted else Role.NORM
        else:
            roles[node] = canonical.rules[node].role
    if problems:
        raise PartitionError(problems)
    return Legal(canonical, roles, reasons, frozenset(insisted), norm)


def _why_a_boundary(reading: Reading, network: nn.Module, norm: str) -> str | None:
    """Why a norm that nobody insists on is digital; None of one that may be held, by what it holds now."""
    if norm == "split":
        return "batch norm: norm='split' makes every norm a boundary"
    known = statistics_of(reading.operation, reading.operands, network)
    return None if known is None or known.known else NO_STATISTICS
