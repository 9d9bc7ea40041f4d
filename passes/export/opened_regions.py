"""Regions of an exported graph: calls of subgraphs under another grad mode or autocast become the calls themselves.

y = wrap_with_set_grad_enabled(False, sub, x, w)[0]    means    y = sub's calls, each in a context that records nothing
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ..graph.contexts import Autocast, Context, context_of, place_in
from ..graph.names import value_at


def _grad_mode(arguments: tuple[Any, ...], around: Context) -> tuple[Context, tuple[Any, ...]]:
    enabled, *rest = arguments
    return replace(around, records=enabled), tuple(rest)


def _autocast(arguments: tuple[Any, ...], around: Context) -> tuple[Context, tuple[Any, ...]]:
    device, dtype, enabled, _, *rest = arguments
    own = {**{a.device: a for a in around.autocast}, device: Autocast(device, dtype, enabled)}
    return replace(around, autocast=tuple(own[d] for d in sorted(own))), tuple(rest)


_REGIONS: Mapping[Any, Callable[[tuple[Any, ...], Context], tuple[Context, tuple[Any, ...]]]] = {
    torch.ops.higher_order.wrap_with_set_grad_enabled: _grad_mode,
    torch.ops.higher_order.wrap_with_autocast: _autocast,
}
"""By its operator: (arguments, the context around) -> (the context inside, the subgraph and its operands)."""


def open_regions(module: fx.GraphModule) -> None:
    """Replaces the calls of regions by what stands in them, each call with its context."""
    while regions := [n for n in module.graph.nodes if n.target in _REGIONS]:  # the regions within them come next
        for node in regions:
            _open(node, module)
    module.graph.eliminate_dead_code(is_impure_node=lambda n: n.op != "get_attr")


def _open(node: fx.Node, module: fx.GraphModule) -> None:
    context, (called, *operands) = _REGIONS[node.target](node.args, context_of(node))
    copies: dict[fx.Node, fx.Node] = {}
    given = iter(operands)
    results: Any = ()
    for one in value_at(module, called.target).graph.nodes:
        if one.op == "placeholder":
            copies[one] = next(given)
        elif one.op == "output":
            results = fx.node.map_arg(one.args[0], copies.__getitem__)
        else:
            with module.graph.inserting_before(node):
                copies[one] = copy = module.graph.node_copy(one, copies.__getitem__)
            place_in(copy, context)
            if one.op == "get_attr":
                copy.target = f"{called.target}.{one.target}"
    for taken in list(node.users):  # who reads what a region returns reads the values themselves
        assert taken.target is operator.getitem, "a region returns a tuple"
        taken.replace_all_uses_with(results[taken.args[1]])
        module.graph.erase_node(taken)
    module.graph.erase_node(node)
