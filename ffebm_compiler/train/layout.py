"""How a block's inputs and weights stand in the flat lists of tensors and sizes that an operator takes.

layout = digest, kind of each input        kind = "tensor" | "size" | "3 sizes" | a constant, as Python writes it
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ir import EnergyBlock
from ..ir.coupling import winners_of


def kind_of(value: Any) -> tuple[str, list[Any]]:
    """How an input is written in a layout, and the sizes that it takes with it."""
    if isinstance(value, Tensor):
        return "tensor", []
    if isinstance(value, (tuple, list)):
        return f"{len(value)} sizes", list(value)
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return "size", [value]
    return repr(value), []


def layout_of(kinds: Sequence[str], digest: str) -> str:
    """How a block's inputs stand in the lists that an operator takes, beside a digest of what the block computes: graphs of other blocks
    are then other graphs to a cache on disk."""
    return "\n".join([digest, *kinds])


def _inputs_of(block: EnergyBlock, layout: str, tensors: Sequence[Tensor], sizes: Sequence[Any]) -> dict[str, Any]:
    """The inputs by name."""
    tensor, size = iter(tensors), iter(sizes)
    found: dict[str, Any] = {}
    for name, kind in zip(block.inputs, layout.split("\n")[1:], strict=True):
        if kind == "tensor":
            found[name] = next(tensor)
        elif kind == "size":
            found[name] = next(size)
        elif kind.endswith(" sizes"):
            found[name] = torch.Size([next(size) for _ in range(int(kind.split()[0]))])
        else:
            found[name] = ast.literal_eval(kind)
    return found


def content(block: EnergyBlock) -> str:
    """A digest of what a block computes."""
    terms = [
        (s.name, s.potential.name, [(t.name, t.operation.name, sorted(t.operation.options.items(), key=str), t.operands) for t in s.drive.terms])
        for s in block.states
    ]  # fmt: skip
    return hashlib.sha256(repr(terms).encode()).hexdigest()[:16]


def read(
    block: EnergyBlock, layout: str, tensors: Sequence[Tensor], sizes: Sequence[Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A block's inputs and weights by name."""
    first = len(tensors) - len(block.weights)
    return _inputs_of(block, layout, tensors[:first], sizes), dict(zip(block.weights, tensors[first:], strict=True))


def winner_names(block: EnergyBlock) -> list[str]:
    """The names of the winners that a block has, in the order in which they are found."""
    chosen = (t for s in block.states for t in s.drive.terms if t.operation.choose is not None)
    return list(dict.fromkeys(winners_of(t.name) for t in chosen)) if block.is_routed else []
