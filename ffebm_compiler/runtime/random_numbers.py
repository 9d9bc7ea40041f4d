"""The uniform numbers of a model's random layers (dropout), from one recorded generator."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, Problem
from ..export import Port

_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


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
        return {
            p.name: torch.rand(
                [size_of(d, sizes, part) for d in p.shape],
                generator=self.generator,
                dtype=getattr(torch, p.dtype),
            )
            for p in ports
        }


def sizes_of(ports: Iterable[Port], values: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that vary, by name, as the given tensors have them."""
    pairs = (
        (name, size)
        for p in ports
        if isinstance(v := values[p.name], Tensor)
        for name, size in zip(p.shape, v.shape, strict=True)
    )
    return {name: size for name, size in pairs if isinstance(name, str)}


def size_of(dimension: int | str, sizes: Mapping[str, int], part: str) -> int:
    """A size, a named one, or one that is computed from named ones: ``"4*batch"``."""
    if isinstance(dimension, int):
        return dimension
    if dimension in sizes:
        return sizes[dimension]
    try:
        return _computed(ast.parse(dimension, mode="eval").body, sizes)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError, RecursionError) as failure:
        problem = Problem(
            f"digital part {part}", f"takes random numbers of the size {dimension!r}, which no input has",
            "Compile the bundle again.",
        )  # fmt: skip
        raise InputError(problem) from failure


def _computed(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_computed(node.left, sizes), _computed(node.right, sizes))
    raise ValueError(ast.dump(node))
