"""The uniform numbers of a model's random layers (dropout), from one recorded generator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, Problem
from ...onnx import Port
from ...onnx.sizes import size_of


class RandomNumbers:
    """A generator that copies of a model copy, so that a trial run of one uses up no numbers of another."""

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)

    def __deepcopy__(self, memo: dict[int, Any]) -> RandomNumbers:
        copied = RandomNumbers()
        copied.generator.set_state(self.generator.get_state())
        memo[id(self)] = copied
        return copied

    def draw(self, ports: Iterable[Port], sizes: Mapping[str, int], part: str) -> dict[str, Tensor]:
        """Numbers in [0, 1) for each port, by its name.

        Raises:
            InputError: a shape that depends on a size which no input has.
        """
        try:
            shapes = {p: [size_of(d, sizes) for d in p.shape] for p in ports}
        except ValueError as failure:
            problem = Problem(
                f"digital part {part}", f"takes random numbers, and {failure}", "Compile the bundle again."
            )
            raise InputError(problem) from failure
        return {
            p.name: torch.rand(shape, generator=self.generator, dtype=getattr(torch, p.dtype))
            for p, shape in shapes.items()
        }
