"""The work of a digital part, from one run of it: multiply-accumulates, other operations, and values moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...ir import DigitalBlock
from ...torch_private import TorchDispatchMode, tree_leaves
from .work import DigitalPart

RunDigital = Callable[[DigitalBlock, nn.Module, Mapping[str, Any]], dict[str, Any]]
"""Runs a digital part: (block, network, values) -> its outputs by name."""


class _Tally(TorchDispatchMode):
    """Counts the values that operations read and write; a view costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = _tensors((args, kwargs or {}))
        kept = {t.untyped_storage().data_ptr() for t in read} if not _writes(func) else set()
        written = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in kept]
        if written:
            self.written += sum(t.numel() for t in written)
            self.moved += sum(t.numel() for t in (*read, *written))
        return result


def _writes(func: Any) -> bool:
    """Whether an operation changes one of its arguments."""
    return bool(getattr(getattr(func, "_schema", None), "is_mutable", False))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def digital_part(
    block: DigitalBlock, network: nn.Module, values: Mapping[str, Any], run_digital: RunDigital, samples: int
) -> tuple[DigitalPart, dict[str, Any]]:
    tally, flops = _Tally(), FlopCounterMode(display=False)
    with flops, tally:
        outputs = run_digital(block, network, values)
    macs = flops.get_total_flops() // 2
    return DigitalPart(
        name=block.name,
        macs=math.ceil(macs / samples),
        operations=math.ceil(tally.written / samples),
        values=math.ceil(tally.moved / samples),
        parameters=_parameters(block, network),
    ), outputs


def _parameters(block: DigitalBlock, network: nn.Module) -> int:
    """How many parameters a digital part learns."""
    sizes: dict[int, int] = {}
    for node in block.graph.nodes:
        if node.op == "call_module":
            learn = [p for p in network.get_submodule(str(node.target)).parameters() if p.requires_grad]
        elif node.op == "get_attr":
            value = attrgetter(str(node.target))(network)
            learn = [value] if isinstance(value, nn.Parameter) and value.requires_grad else []
        else:
            continue
        sizes.update({id(p): p.numel() for p in learn})
    return sum(sizes.values())
