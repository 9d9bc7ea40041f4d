"""Private parts of PyTorch that several modules need, each under one name here, with what replaces it when it goes.

What a single module needs stands in that module, with the same kind of line; ``tests/test_architecture.py`` holds that
no private name of PyTorch is spelled in two modules.
"""

from __future__ import annotations

from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import (
    SUPPORTED_NODES,
    TreeSpec,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_map_only,
    tree_structure,
    tree_unflatten,
)

__all__ = [
    "SUPPORTED_NODES",
    "HigherOrderOperator",
    "Operator",
    "TorchDispatchMode",
    "TreeSpec",
    "outside_modes",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_structure",
    "tree_unflatten",
]

# The trees (nests of tuples, lists, dictionaries and registered classes): the package optree has the same functions.
# SUPPORTED_NODES, the classes that users have registered: optree's registry, or nests.py without it.
# TorchDispatchMode sees each operation below autograd; torch.overrides.TorchFunctionMode, public, sees only calls.
# HigherOrderOperator: type(torch.ops.higher_order.while_loop) without the concrete class.

Operator = OpOverload  # type(torch.ops.aten.add.Tensor)
outside_modes = _disable_current_modes  # a context in which no mode sees what runs; else: leave each mode by hand
