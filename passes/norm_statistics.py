"""What a batch norm knows of its inputs: the mean and variance of many batches, or the 0 and 1 that it begins with.

After n batches with momentum m the initial values have the weight ``(1 - m)^n`` in the running statistics. A norm that
saw no batch normalises nothing while they are held, and a network trained from scratch does not learn as it would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..ir import Operation, Program, Weight
from ..ir.functions import held_norm
from .graph.names import has_path, value_at

NO_STATISTICS = "no statistics when converted: digital; convert after training, or give norm='held'"

FEW = 0.5
"""Statistics in which the initial values weigh more than this say little of the inputs."""


@dataclass(frozen=True)
class Statistics:
    """The running statistics of one norm.

    Attributes:
        moved: whether they differ from the initial mean 0 and variance 1.
        batches: how many batches they are of; None where the norm doesn't count.
        initial: the weight of the initial values in them, as far as batches were counted.
    """

    moved: bool
    batches: int | None
    initial: float

    @property
    def known(self) -> bool:
        return self.moved or bool(self.batches)

    @property
    def few(self) -> bool:
        return not self.known or (bool(self.batches) and self.initial > FEW)

    def __str__(self) -> str:
        if not self.known:
            return "no statistics yet, the initial mean 0 and variance 1"
        if not self.batches:
            return "running statistics that were loaded or set"
        text = f"running statistics of {self.batches:,} batch{'' if self.batches == 1 else 'es'}"
        return f"{text}, of which {self.initial:.0%} are still the initial values" if self.few else text


def statistics_of(operation: Operation | None, operands: Sequence[Any], network: nn.Module) -> Statistics | None:
    """The statistics that a norm reads; None of an operation that is no batch norm of the library's rules."""
    if operation is None or operation.function is not held_norm:
        return None
    mean, variance = operands[1:3]
    assert isinstance(mean, Weight)
    assert isinstance(variance, Weight)
    owner = network.get_submodule(mean.path.rpartition(".")[0])
    counted = getattr(owner, "num_batches_tracked", None)
    batches = int(counted) if isinstance(counted, Tensor) else None
    moved = _moved(network, mean.path, 0.0) or _moved(network, variance.path, 1.0)
    return Statistics(moved, batches, _initial(owner, batches or 0))


def _moved(network: nn.Module, path: str, start: float) -> bool:
    value = value_at(network, path) if has_path(network, path) else None
    return isinstance(value, Tensor) and bool(torch.any(value.detach() != start))


def _initial(owner: nn.Module, batches: int) -> float:
    """A cumulative average (``momentum=None``) forgets the initial values at the first batch."""
    momentum = getattr(owner, "momentum", None)
    return (1.0 - momentum) ** batches if isinstance(momentum, float) and batches else 0.0


def barely_known_norms(programs: Iterable[Program], network: nn.Module) -> Iterator[str]:
    """A sentence for the norms that are held at statistics which say little of their inputs."""
    labels: dict[Statistics, dict[str, None]] = {}
    for block in (b for program in programs for b in program.energy_blocks):
        held = {o.label for o in block.held_norms}
        for term in (t for s in block.states for t in s.drive.terms if t.origin.label in held):
            known = statistics_of(term.operation, term.operands, network)
            if known is not None and known.few:
                labels.setdefault(known, {})[term.origin.label] = None
    for statistics, names in labels.items():
        yield (
            f"The batch norm {', '.join(names)} is held at {statistics}: it hardly normalises, and takes no statistics "
            "while training. Convert after training, or give norm='split'."
        )
