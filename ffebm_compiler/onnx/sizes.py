"""The sizes of a graph's ports on given values: those that vary are named, or computed (``"4*batch"``)."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .interface import Dimension, Port

_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def sizes_of(ports: Iterable[Port], values: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that vary, by name, as the given tensors (by the ports' names) have them."""
    pairs = (
        (name, size)
        for p in ports
        if hasattr(v := values[p.name], "shape")
        for name, size in zip(p.shape, v.shape, strict=True)
    )
    return {name: size for name, size in pairs if isinstance(name, str)}


def size_of(dimension: Dimension, sizes: Mapping[str, int]) -> int:
    """A size, a named one, or one that is computed from named ones.

    Raises:
        ValueError: it depends on a size that is not given, or is no such expression.
    """
    if isinstance(dimension, int):
        return dimension
    if dimension in sizes:
        return sizes[dimension]
    try:
        return _computed(ast.parse(dimension, mode="eval").body, sizes)
    except (SyntaxError, KeyError, ZeroDivisionError, RecursionError) as failure:
        raise ValueError(f"the size {dimension!r} is that of no input") from failure


def _computed(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_computed(node.left, sizes), _computed(node.right, sizes))
    raise ValueError(f"{ast.dump(node)} computes no size")
