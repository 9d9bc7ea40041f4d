"""Regions of autocast in a forward: each of their calls runs under the forward's own setting, whatever the caller's is.

    with torch.autocast("cpu", torch.bfloat16): h = linear(x, w)    means    h = with_autocast("cpu", torch.bfloat16, True, linear, x, w)

Such a call has no energy: it stays digital. Sizes are the same under any setting, and stay as they are.
"""

from __future__ import annotations

import operator

from torch import fx, nn

from .contexts import context_of, with_autocast
from .kinds import PLAIN_KINDS, Kinds


def keep_autocast(graph: fx.Graph, network: nn.Module) -> None:
    """Puts each call that stands in a region under the region's setting."""
    inside = [n for n in graph.nodes if context_of(n).autocast and n.op in ("call_function", "call_method")]
    if not inside:
        return
    kinds = Kinds(graph, network)
    for node in [n for n in inside if n.target is not operator.getitem and kinds(n) not in PLAIN_KINDS]:
        for own in context_of(node).autocast:
            node.args = (own.device, own.dtype, own.enabled, node.target, *node.args)
            node.op, node.target = "call_function", with_autocast
