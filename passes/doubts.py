"""What a conversion does as it was asked to, though it may not be what was meant: each said once, in a sentence with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from ..ir import Program
from .norm_statistics import Statistics, statistics_of


def norm_doubts(programs: Iterable[Program], network: nn.Module) -> Iterator[str]:
    """Norms that are held at statistics which say little of their inputs."""
    found: dict[Statistics, dict[str, None]] = {}
    for block in (b for program in programs for b in program.energy_blocks):
        held = {o.label for o in block.held_norms}
        for term in (t for s in block.states for t in s.drive.terms if t.origin.label in held):
            known = statistics_of(term.operation, term.operands, network)
            if known is not None and known.few:
                found.setdefault(known, {})[term.origin.label] = None
    for statistics, labels in found.items():
        yield (
            f"The batch norm {', '.join(labels)} is held at {statistics}: it hardly normalises, and takes no statistics while "
            "training. Convert after training, or give norm='split'."
        )
