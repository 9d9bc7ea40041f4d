"""What regions of a forward mean in a graph: those in which autograd records nothing, and those of its own autocast.

    with torch.no_grad(): h = f(x)             h = f(x.detach()).detach()
    with torch.autocast("cpu", bfloat16):      h = with_autocast("cpu", bfloat16, True, linear, x, w)
        h = linear(x, w)

Inside of a region without history it does not matter what is recorded, since nothing in it asks for a gradient. So a
``detach()`` stands on each value that is read outside, and on each that is written into a buffer; what is in place
within has become out-of-place before. One stands on each value that enters too: no energy has ``detach``, so no block
has layers on both sides, where the nudge of one that learns would move one that does not.

A call under the forward's own autocast runs under it whatever the caller's is. It has no energy, and stays digital.
Sizes are the same under any setting, and stay as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from ...errors import Problem
from ...torch_private import tree_map_only
from ..refusals import LosesMeaning, kept_whole
from .aliases import bases_of
from .contexts import context_of, with_autocast
from .effects import is_new, written_by
from .names import enclosing_module, function_name, location_of, value_at
from .value_types import PLAIN_TYPES, ValueTypes, is_tensor

_MAY_RETURN_OPERAND = frozenset((
    "to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
))  # fmt: skip
"""What may return its operand itself, whose history no region takes away."""


# --- without history --------------------------------------------------------------------------------------


def without_history(value: Any, *operands: Any) -> Any:
    """A value as a region without history leaves it: its tensors detached, but for operands handed on."""
    return tree_map_only(Tensor, lambda t: t if any(t is o for o in operands) else t.detach(), value)


def cut_history(graph: fx.Graph, network: nn.Module) -> None:
    """Detaches what leaves the regions of a graph in which nothing is in place but writes into buffers."""
    region = _region(graph)
    if not region:
        return
    types = ValueTypes(graph, network)
    for node in [n for n in graph.nodes if n.op.startswith("call") and n not in region]:
        inside = [u for u in node.users if u in region and not _may_hand_on(u)]
        if inside and is_tensor(types(node)):
            _detach(node, inside)
    for node in list(region):
        outside = [u for u in node.users if u not in region]
        if outside and types(node) not in PLAIN_TYPES:
            _detach(node, outside, _passed_through(node, region), is_tensor(types(node)))
    bases = bases_of(graph, network)
    for node in region:
        written = written_by(node, network)
        if any(bases[w].op == "get_attr" for w in written):
            for operand in [o for o in node.all_input_nodes if o not in written and is_tensor(types(o))]:
                _detach(operand, [node])


def check_regions(graph: fx.Graph, network: nn.Module) -> None:
    """Whether the regions of a graph, as it was traced, write into nothing that has a history of its own.

    Raises:
        LosesMeaning: a region overwrites a parameter, or a value from outside of it, whose gradient then is that of the
            value before.
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
        item = node.target is operator.getitem and node.args[0] in region and not isinstance(node.args[1], fx.Node)
        if item or (node.op.startswith("call") and not context_of(node).records):
            region[node] = None
    return region


def _detach(node: fx.Node, readers: list[fx.Node], passed: Sequence[fx.Node] = (), is_tensor: bool = True) -> None:
    """Lets readers read a value without its history, but for the operands that the value may be itself."""
    with node.graph.inserting_after(node):
        if passed or not is_tensor:
            cut = node.graph.call_function(without_history, (node, *passed))
        else:
            cut = node.graph.call_method("detach", (node,))
    cut.meta.update({k: v for k, v in node.meta.items() if k in ("nn_module_stack", "stack_trace")})
    cut.stack_trace = node.stack_trace
    for reader in readers:
        reader.replace_input_with(node, cut)


def _passed_through(node: fx.Node, region: dict[fx.Node, None]) -> Sequence[fx.Node]:
    """The value from outside that a region may hand on as it is."""
    while node in region and _may_hand_on(node):
        node = node.all_input_nodes[0]
    return () if node in region else (node,)


def _may_hand_on(node: fx.Node) -> bool:
    return function_name(node.target) in _MAY_RETURN_OPERAND and bool(node.all_input_nodes)


# --- autocast ---------------------------------------------------------------------------------------------


def keep_autocast(graph: fx.Graph, network: nn.Module) -> None:
    """Puts each call that stands in a region under the region's setting."""
    inside = [n for n in graph.nodes if context_of(n).autocast and n.op in ("call_function", "call_method")]
    if not inside:
        return
    types = ValueTypes(graph, network)
    for node in [n for n in inside if n.target is not operator.getitem and types(n) not in PLAIN_TYPES]:
        for own in context_of(node).autocast:
            node.args = (own.device, own.dtype, own.enabled, node.target, *node.args)
            node.op, node.target = "call_function", with_autocast
