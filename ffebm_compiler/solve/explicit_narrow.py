"""Products in bfloat16, for starts and corrections that need few digits.

The second sweep of a certified block moves its states by some 1e-4 of their size, so a product of that move which is right to three
digits leaves an error of 1e-7: as iterative refinement (Higham 2002, chapter 12) keeps the precision of the first solution and
computes its corrections in a lower one. Where bfloat16 is multiplied much faster (by tensor cores, Intel's AMX, or the dot products of
AVX-512), that is most of a sweep's time. A product that reads its weights few times waits for memory, one of few multiplications
for its conversions, and both stay as they are.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from .explicit_code import NARROW, SHAPE, Code

aten = torch.ops.aten

FACTORS: dict[Any, int] = {
    aten.convolution.default: 2,
    aten.convolution_backward.default: 3,
    aten.mm.default: 2,
    aten.addmm.default: 3,
    aten.bmm.default: 2,
}
"""Products, and how many of their first arguments are multiplied or added."""

DENSE = 64
"""The multiplications for each number read or written, from which on a product waits for its arithmetic."""

LARGE = 10**8
"""The multiplications from which on a product gains more than the conversions of its factors take."""

UNITS = ("amx_bf16", "avx512_bf16")
"""What a processor multiplies bfloat16 with, faster than float32."""


def narrow_pays(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 much faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if device.type != "cpu" or capabilities is None:
        return False
    has = capabilities()
    return any(has.get(unit, False) for unit in UNITS)


def is_narrow(code: Code) -> bool:
    """Whether any product of it is in bfloat16."""
    return any(n.meta.get(NARROW, False) for n in code.module.graph.nodes)


def _is_dense(product: fx.Node) -> bool:
    """Whether a product has much to multiply, in all and for each number that it reads or writes."""
    read = [a for a in product.args[: FACTORS[product.target]] if isinstance(a, fx.Node)]
    if any(SHAPE not in a.meta for a in read):
        return False  # a constant of the code
    factors = [_shape(a) for a in read]
    if product.target in (aten.convolution.default, aten.convolution_backward.default):
        *_, values, weight = factors
        transposed = product.args[7 if _is_backward(product) else 6]
        above = factors[0] if _is_backward(product) else _shape(product)
        multiplications = prod(values if transposed else above) * prod(weight[1:])
        numbers = prod(values) + prod(weight) + prod(above)
    else:
        *_, one, other = factors
        multiplications = prod(one) * other[-1]
        numbers = prod(one) + prod(other) + prod(_shape(product))
    return multiplications >= max(LARGE, DENSE * numbers)


def _shape(node: fx.Node) -> tuple[int, ...]:
    found: tuple[int, ...] = node.meta[SHAPE]
    return found


def narrowed(code: Code) -> Code:
    """The same code with the factors of its products rounded to bfloat16; what is computed from a product reads it in float32, as before.

    A product that is an output itself stays in bfloat16: whoever adds it to something else needs no copy of it.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    rounded: dict[tuple[fx.Node, bool], fx.Node] = {}

    def factor(node: fx.Node, shape_alone: bool) -> fx.Node:
        """A factor in bfloat16; of one that only its shape is read of, memory of that shape."""
        if (node, shape_alone) not in rounded:
            make = aten.empty_like.default if shape_alone else aten._to_copy.default
            rounded[node, shape_alone] = graph.call_function(make, (copies[node],), {"dtype": torch.bfloat16})
        return rounded[node, shape_alone]

    for node in code.module.graph.nodes:
        if node.target not in FACTORS or not _is_dense(node):
            copies[node] = graph.node_copy(node, copies.__getitem__)
            continue
        unread = _unread(node)
        args = tuple(factor(a, i in unread) if isinstance(a, fx.Node) else a for i, a in enumerate(node.args))
        product = graph.call_function(node.target, args, dict(node.kwargs))
        product.meta[NARROW] = True
        is_last = all(user.op == "output" for user in node.users)
        copies[node] = product if _is_backward(node) or is_last else _wide(graph, product)
    _widen_parts(graph)
    return Code(code.inputs, code.outputs, fx.GraphModule(code.module, graph))


def _is_backward(node: fx.Node) -> bool:
    return bool(node.target is aten.convolution_backward.default)


def _unread(node: fx.Node) -> tuple[int, ...]:
    """The arguments whose values don't matter: what a transpose is taken at, where only the transpose is asked for."""
    if not _is_backward(node):
        return ()
    wants: Any = node.args[10]
    return (*(() if wants[1] else (1,)), *(() if wants[0] else (2,)))


def _wide(graph: fx.Graph, node: fx.Node) -> fx.Node:
    return graph.call_function(aten._to_copy.default, (node,), {"dtype": torch.float32})


def _widen_parts(graph: fx.Graph) -> None:
    """What is taken of a transposed convolution's results and read again, in float32."""
    for node in list(graph.nodes):
        first = node.args[0] if node.op == "call_function" and node.args else None
        is_last = all(user.op == "output" for user in node.users)
        if isinstance(first, fx.Node) and _is_backward(first) and not is_last:
            with graph.inserting_after(node):
                wide = _wide(graph, node)
            node.replace_all_uses_with(wide, delete_user_cb=wide.__ne__)
