"""Data in batches whose order follows from the seed and the epoch alone: a resumed training sees the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, Problem

STRIDE = 1_000_003
"""Between the seeds of two trainings' epochs, so that no two share an order."""


@dataclass(frozen=True)
class Batches:
    """Inputs and targets.

    Attributes:
        positional, named: the model's arguments, samples first.
        target: one for each sample.
        size: samples a batch; the last one of an epoch may be smaller.
        seed: of the order.

    Raises:
        InputError: they are not of one length.
    """

    positional: tuple[Tensor, ...]
    named: Mapping[str, Tensor]
    target: Tensor
    size: int
    seed: int

    def __post_init__(self) -> None:
        InputError.raise_if(self._problems())

    def _problems(self) -> Iterator[Problem]:
        if self.positional and self.named:
            yield Problem("option --input", "names some inputs and not others", "Name all of them, or none.")
        tensors = {f"input {i + 1}": x for i, x in enumerate(self.positional)}
        tensors |= {f"input {n}": x for n, x in self.named.items()} | {"target": self.target}
        scalars = [n for n, x in tensors.items() if x.dim() == 0]
        yield from (Problem(n, "is a single number", "Give an array with one entry a sample.") for n in scalars)
        counts = {n: x.shape[0] for n, x in tensors.items() if x.dim()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{n} has {c}" for n, c in counts.items())
            yield Problem(
                "samples", f"are not equally many: {told}", "Give one target, and one of each input, a sample."
            )
        elif 0 in counts.values():
            yield Problem("samples", "are none", "Give a sample at least.")

    def __len__(self) -> int:
        return self.target.shape[0]

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self) // self.size)

    def batch(self, epoch: int, number: int) -> tuple[Any, Tensor]:
        """Inputs, as a training step takes them, and targets."""
        chosen = self._order(epoch)[number * self.size : (number + 1) * self.size]
        named = {n: x[chosen] for n, x in self.named.items()}
        positional = tuple(x[chosen] for x in self.positional)
        return (positional or named), self.target[chosen]

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * STRIDE + epoch)
        return torch.randperm(len(self), generator=generator)
