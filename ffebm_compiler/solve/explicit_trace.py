"""Traces a function of tensors, derivatives included, to straight-line code of ATen operations.

What automatic differentiation does inside of the function is recorded as the operations that it runs, so the code contains
transposes and slopes, and needs none to be taken. Nothing in it is written in place, so that any part of the code can be run at
any time; and views become reshapes, since a later input may lie in memory in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from .explicit_code import Code, Key, as_code

aten = torch.ops.aten

SAME = (aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default)
"""Operations that give what they are given."""

VIEWS = (aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)

DECOMPOSED: Any = get_decompositions([aten.native_batch_norm_backward])


def traced(function: Callable[[dict[Key, Tensor]], Mapping[Key, Tensor]], examples: Mapping[Key, Tensor]) -> Code:
    """The code of a function from named tensors to named tensors, at the shapes of the examples.

    Args:
        function: may call torch.autograd.grad; its outputs depend on the examples' shapes, not on their values.
        examples: tensors like those that the code will read; nothing is computed on them.
    """
    names, outputs = tuple(examples), list[Key]()

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        found = function(dict(zip(names, tensors, strict=True)))
        outputs[:] = found
        return tuple(found.values())

    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        module = _make(flat, [v.detach() for v in examples.values()])
        if any(_writes(n) for n in module.graph.nodes):
            module = _make(torch.func.functionalize(module), [v.detach() for v in examples.values()])
    _put_right(module.graph)
    return as_code(module, names, outputs)


def _make(function: Callable[..., Any], examples: list[Tensor]) -> fx.GraphModule:
    module: fx.GraphModule = make_fx(
        function, decomposition_table=DECOMPOSED, tracing_mode="fake", _allow_non_fake_inputs=True
    )(*examples)
    return module


def scattered(values: Tensor, shape: Sequence[int], dimension: int, index: Tensor) -> Tensor:
    """What a gather gives back, with no copy of the zeros that it is added to."""
    return values.new_zeros(shape).scatter_add_(dimension, index, values)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _put_right(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.target in SAME:
            node.replace_all_uses_with(node.args[0])
        elif node.target in VIEWS:
            node.target = aten.reshape.default
            node.args = node.args[:2]
        elif node.target is aten.scatter_add.default and node.args[0].target is aten.new_zeros.default:
            zeros, dimension, index, values = node.args
            node.target, node.args = scattered, (values, zeros.args[1], dimension, index)
