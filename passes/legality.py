"""Pass 3, legality: what may enter an energy-based block, and why everything else stays digital."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from ..errors import OptionError, PartitionError, Problem, close_matches
from ..ir import Origin
from ..rules import Refusal, Role
from .canonicalize import Canonical

Choice = Sequence[str] | Callable[[str, nn.Module | None], bool]
"""The user's choice of layers: names (a container means all within, ``*`` matches), or a predicate of name and module."""

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
        OptionError: a name that is no layer of the model.
        PartitionError: a layer that the user wants both digital and analog, or analog though it has no energy.
    """
    origins, readings = canonical.origins, canonical.readings
    kept_out = chosen(canonical, digital, "digital")
    insisted = chosen(canonical, analog, "analog")
    roles: dict[fx.Node, Role] = {}
    reasons: dict[fx.Node, str] = {}
    problems: list[Problem] = []
    for node, reading in readings.items():
        role = canonical.rules[node].role if node in canonical.rules else None
        if node in kept_out:
            reasons[node] = KEPT_DIGITAL
            if node in insisted:
                problems.append(
                    Problem(
                        f"layer {origins[node].label}",
                        "is named by both digital= and analog=",
                        "Name it in one of them.",
                    )
                )
        elif isinstance(reading, Refusal):
            reasons[node] = reading.reason
            if node in insisted and isinstance(analog, Sequence):
                problems.append(
                    Problem(
                        f"layer {origins[node].label}",
                        f"analog= insists on it, but {reading.reason}",
                        "Remove it from analog=, or give a rule for it (docs/operations.md).",
                    )
                )
        elif role is Role.NORM and norm == "split" and node not in insisted:
            reasons[node] = "batch norm: norm='split' makes every norm a boundary"
        else:
            assert role is not None
            roles[node] = Role.COUPLING if role is Role.NORM and (norm == "held" or node in insisted) else role
    if problems:
        raise PartitionError(problems)
    return Legal(canonical, roles, reasons, frozenset(insisted), norm)


def chosen(canonical: Canonical, choice: Choice, option: str) -> set[fx.Node]:
    """The calls that a choice names.

    Raises:
        OptionError: for each name that matches nothing.
    """
    origins, network = canonical.origins, canonical.network
    calls = [n for n in canonical.graph.nodes if n.op.startswith("call")]
    if callable(choice):
        return {
            n
            for n in calls
            if choice(
                origins[n].label if n.op != "call_module" else origins[n].layer,
                network.get_submodule(str(n.target)) if n.op == "call_module" else None,
            )
        }
    named = _by_name(calls, origins)
    found: set[fx.Node] = set()
    problems: list[Problem] = []
    modules = dict.fromkeys(name for name, _ in network.named_modules() if name)
    for name in choice:
        matching = named.get(name, set()) | ({n for n in calls if _matches(name, origins[n])} if "*" in name else set())
        if not matching and name not in modules:
            known = list(dict.fromkeys([*(origins[n].label for n in calls), *modules]))
            problems.append(Problem(f"option {option}", f"the model has no layer {name!r}", close_matches(name, known)))
        found |= matching
    if problems:
        raise OptionError(problems)
    return found


def _by_name(calls: Iterable[fx.Node], origins: Mapping[fx.Node, Origin]) -> dict[str, set[fx.Node]]:
    """The calls that a name without ``*`` names: its own, and those in a container of that name."""
    found: dict[str, set[fx.Node]] = {}
    for node in calls:
        origin = origins[node]
        parts = origin.layer.split(".")
        for name in {origin.label, *(".".join(parts[: i + 1]) for i in range(len(parts)))}:
            found.setdefault(name, set()).add(node)
    return found


def _matches(pattern: str, origin: Origin) -> bool:
    return fnmatch.fnmatchcase(origin.label, pattern) or fnmatch.fnmatchcase(origin.layer, pattern)
