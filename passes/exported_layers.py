"""Layers that torch.export leaves whole: each call of one becomes a call of the layer, as torch.fx records it.

torch.export opens every module to operations of ATen. A layer that a rule reads as one call is kept shut while it runs: its forward
is an operator that knows the layer by its path, and runs the layer itself only to learn the shape of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import Problem, TraceError

_library = torch.library.Library("ffebm_trace", "DEF")
_library.define("layer(Tensor[] inputs, str path) -> Tensor")

_forwards: ContextVar[Mapping[str, Callable[..., Any]]] = ContextVar("forwards")
"""What the layers that are whole compute, by their paths, while a model is exported."""


def _shape_of(inputs: list[Tensor], path: str) -> Tensor:
    result = _forwards.get()[path](*inputs)
    if not isinstance(result, Tensor):
        what = f"returns a {type(result).__name__}: a rule reads a call with one tensor as its result"
        raise TraceError(Problem(f"layer {path}", what, "Give the rule a layer that returns a tensor."))
    return torch.empty_like(result)


torch.library.register_fake("ffebm_trace::layer", _shape_of, lib=_library)


@contextmanager
def layers_whole(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Layers of those paths are one call each, where they are called with tensors alone."""
    modules = {path: network.get_submodule(path) for path in paths}
    forwards = {path: module.forward for path, module in modules.items()}
    token = _forwards.set(forwards)
    try:
        for path, module in modules.items():
            module.forward = _shut(path, forwards[path])
        yield
    finally:
        for module in modules.values():
            vars(module).pop("forward", None)
        _forwards.reset(token)


def _shut(path: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            return plain(*args, **kwargs)
        return torch.ops.ffebm_trace.layer(list(args), path)

    return forward


def call_layers(graph: fx.Graph) -> None:
    """The operator's calls as calls of the layers, which the exported module doesn't have: the graph is no longer
    its own."""
    graph.owning_module = None
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.ffebm_trace.layer.default:
            inputs, path = node.args
            with graph.inserting_before(node):
                call = graph.create_node("call_module", str(path), tuple(inputs))
            call.meta, call.stack_trace = dict(node.meta), node.stack_trace
            node.replace_all_uses_with(call)
            graph.erase_node(node)
