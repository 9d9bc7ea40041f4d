"""Regions in which autograd records nothing (``torch.no_grad`` and its like in a forward): what leaves one has no history.

    with torch.no_grad(): h = f(x)          means          h = f(x.detach()).detach()

Inside of a region it does not matter what is recorded, since nothing in it asks for a gradient. So a ``detach()`` stands on each
value that is read outside, and on each that is written into a buffer; what is in place within has become out-of-place before.
One stands on each value that enters too: no energy has ``detach``, so no block has layers on both sides, where the nudge of one
that learns would move one that does not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import Problem
from .aliases import bases_of
from .contexts import context_of
from .kinds import PLAIN_KINDS, Kind, Kinds, is_tensor
from .loses_meaning import LosesMeaning, kept_whole
from .made_tensors import is_new
from .naming import enclosing_module, function_name, location_of
from .traced_names import value_at
from .writes import written_by

_MAY_RETURN_OPERAND = frozenset((
    "to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
))  # fmt: skip
"""What may return its operand itself, whose history no region takes away."""


def without_history(value: Any, *operands: Any) -> Any:
    """A value as a region without history leaves it: its tensors detached, but for an operand that was passed
    through."""
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda t: t if any(t is o for o in operands) else t.detach(), value
    )


def cut_history(graph: fx.Graph, network: nn.Module) -> None:
    """Detaches what leaves the regions of a graph in which nothing is in place but writes into buffers."""
    region = _region(graph)
    if not region:
        return
    kinds = Kinds(graph, network)
    for node in [n for n in graph.nodes if n.op.startswith("call") and n not in region]:
        inside = [u for u in node.users if u in region and not _may_hand_on(u)]
        if inside and is_tensor(kinds(node)):
            _read_instead(node, inside, lambda n=node: graph.call_method("detach", (n,)))  # type: ignore[misc]
    for node in list(region):
        outside = [u for u in node.users if u not in region]
        if outside and kinds(node) not in PLAIN_KINDS:
            _read_instead(node, outside, lambda n=node: _cut(n, region, kinds(n)))  # type: ignore[misc]
    bases = bases_of(graph, network)
    for node in region:
        written = written_by(node, network)
        if any(bases[w].op == "get_attr" for w in written):
            for operand in [o for o in node.all_input_nodes if o not in written and is_tensor(kinds(o))]:
                _read_instead(operand, [node], lambda o=operand: graph.call_method("detach", (o,)))  # type: ignore[misc]


def check_regions(graph: fx.Graph, network: nn.Module) -> None:
    """Whether the regions of a graph, as it was traced, write into nothing that has a history of its own.

    Raises:
        LosesMeaning: a region overwrites a parameter, or a value from outside of it, whose gradient then is that of the value before.
    """
    region, bases = _region(graph), bases_of(graph, network)
    for node in region:
        for base in (bases[w] for w in written_by(node, network)):
            if base not in region and not _is_buffer(base, network) and not is_new(base):
                what = f"parameter {base.target}" if base.op == "get_attr" else "a value from outside of it"
                problem = Problem(
                    location_of(node) or f"model {type(network).__name__}",
                    f"a region without gradients overwrites {what}, which keeps the gradient of what it was before",
                    f"Write it out of place. {kept_whole(enclosing_module(node))}",
                )
                raise LosesMeaning(problem, enclosing_module(node))


def _is_buffer(node: fx.Node, network: nn.Module) -> bool:
    return node.op == "get_attr" and not isinstance(value_at(network, str(node.target)), nn.Parameter)


def _region(graph: fx.Graph) -> dict[fx.Node, None]:
    """The calls in regions; taking apart what one of them returned belongs to it, wherever it stands."""
    region: dict[fx.Node, None] = {}
    for node in graph.nodes:
        taken_apart = (
            node.target is operator.getitem and node.args[0] in region and not isinstance(node.args[1], fx.Node)
        )
        if (node.op.startswith("call") and not context_of(node).records) or taken_apart:
            region[node] = None
    return region


def _read_instead(node: fx.Node, readers: list[fx.Node], make: Callable[[], fx.Node]) -> None:
    """Lets readers read what ``make`` makes of a value, which stands right behind it."""
    with node.graph.inserting_after(node):
        cut = make()
    cut.meta.update({k: v for k, v in node.meta.items() if k in ("nn_module_stack", "stack_trace")})
    cut.stack_trace = node.stack_trace
    for reader in readers:
        reader.replace_input_with(node, cut)


def _cut(node: fx.Node, region: dict[fx.Node, None], kind: Kind) -> fx.Node:
    passed = tuple(_passed_through(node, region))
    if passed or not is_tensor(kind):
        return node.graph.call_function(without_history, (node, *passed))
    return node.graph.call_method("detach", (node,))


def _passed_through(node: fx.Node, region: dict[fx.Node, None]) -> Iterator[fx.Node]:
    """The value from outside that a region may hand on as it is."""
    while node in region and _may_hand_on(node):
        node = node.all_input_nodes[0]
    if node not in region:
        yield node


def _may_hand_on(node: fx.Node) -> bool:
    return function_name(node.target) in _MAY_RETURN_OPERAND and bool(node.all_input_nodes)
