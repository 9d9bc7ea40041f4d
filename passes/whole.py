"""A model that is called as a whole: a graph of one call, that of the model itself, whose path is ``""``.

``digital=[""]`` asks for it: nothing is traced, nothing is analog, and any forward will do.
"""

from __future__ import annotations

from torch import fx, nn

from ..errors import Problem, TraceError
from .calling import form_of_anything, itself, parameters_of
from .stages import Signature, Traced
from .traced_names import rename_apart

WHOLE = ""
"""The path of the model itself."""


def as_a_whole(network: nn.Module) -> Traced:
    """The graph ``network(*arguments)``.

    Raises:
        TraceError: its forward takes any number of arguments, and a graph takes so many as it has.
    """
    signature = parameters_of(network.forward)
    parameters = signature.parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        what = f"its forward takes any number of arguments, {signature}: as a whole it can't be a graph"
        raise TraceError(
            Problem(
                f"model {type(network).__name__}", what, "Give it a forward whose arguments are named, or trace it."
            )
        )
    graph = fx.Graph()
    given = {p.name: graph.placeholder(p.name) for p in parameters}
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    args = tuple(node for name, node in given.items() if name not in named)
    graph.output(graph.call_module(WHOLE, args, {name: given[name] for name in named}))
    rename_apart(graph, network)
    inputs = tuple(node.name for node in given.values())
    called = Signature(inputs, form_of_anything(network.forward), itself)
    return Traced(network, graph, called, "nothing: it is called as a whole")
