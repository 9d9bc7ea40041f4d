"""What torch.export would open or drop, kept as one call each by operators of our own.

Casts: ``h.float()``, ``h.to(torch.bfloat16)``, ``h.type(dtype)``, ``h.to(other)``, ``h.type_as(other)``. torch.export
traces a cast to the type that a tensor has by chance, which under the caller's autocast is another, as no cast:
whoever reads ``h`` afterwards then reads the cast, and the program holds for this type alone. So a cast of the user's
is an operator whose result is always a tensor of its own; in the graph it becomes the cast that was written.

Layers: torch.export opens every module to operations of ATen. A layer that a rule reads as one call is kept shut
while it runs: its forward is an operator that knows the layer by its path, and runs the layer itself only to learn
the shape of its result; in the graph it becomes the call of the layer, as torch.fx records it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import Problem, TraceError
from ..tracing.patching import all_of, replaced

_library = torch.library.Library("ffebm_trace", "DEF")
_library.define("cast(Tensor x, ScalarType dtype) -> Tensor")
_library.define("cast_as(Tensor x, Tensor other) -> Tensor")
_library.define("layer(Tensor[] inputs, str path) -> Tensor")
_ops = torch.ops.ffebm_trace


# --- casts ------------------------------------------------------------------------------------------------


def _cast_shape(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


def _cast_as_shape(x: Tensor, other: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=other.dtype)


torch.library.register_fake("ffebm_trace::cast", _cast_shape, lib=_library)
torch.library.register_fake("ffebm_trace::cast_as", _cast_as_shape, lib=_library)

_NAMED: Mapping[Any, torch.dtype] = {
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.int: torch.int32,
    Tensor.long: torch.int64,
    Tensor.short: torch.int16,
    Tensor.bool: torch.bool,
}
"""What the methods that say so in their names cast to."""

_WRITTEN: Mapping[Any, Any] = {
    _ops.cast.default: torch.ops.aten.to.dtype,
    _ops.cast_as.default: torch.ops.aten.type_as.default,
}


def cast_kept(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a call returns that only casts a tensor of floating-point numbers; None for any other call."""
    to = _NAMED.get(func) if len(args) == 1 and not kwargs else None
    if to is None and func in (Tensor.to, Tensor.type, Tensor.type_as):
        given = [*args[1:], *kwargs.values()]
        to = given[0] if len(given) == 1 else None
    x = args[0] if args else None
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        return None
    if isinstance(to, torch.dtype):
        return _ops.cast(x, to)  # type: ignore[no-any-return]
    if isinstance(to, Tensor) and to.device == x.device:
        return _ops.cast_as(x, to)
    return None


# --- layers -----------------------------------------------------------------------------------------------

_forwards: ContextVar[Mapping[str, Callable[..., Any]]] = ContextVar("forwards")
"""What the layers that are whole compute, by their paths, while a model is exported."""


def _layer_shape(inputs: list[Tensor], path: str) -> Tensor:
    result = _forwards.get()[path](*inputs)
    if not isinstance(result, Tensor):
        what = f"returns a {type(result).__name__}: a rule reads a call with one tensor as its result"
        raise TraceError(Problem(f"layer {path}", what, "Give the rule a layer that returns a tensor."))
    return torch.empty_like(result)


torch.library.register_fake("ffebm_trace::layer", _layer_shape, lib=_library)


@contextmanager
def layers_whole(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Layers of those paths are one call each, where they are called with tensors alone."""
    modules = {path: network.get_submodule(path) for path in paths}
    forwards = {path: module.forward for path, module in modules.items()}
    token = _forwards.set(forwards)
    try:
        with all_of([replaced(m, "forward", _shut(path, forwards[path])) for path, m in modules.items()]):
            yield
    finally:
        _forwards.reset(token)


def _shut(path: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            return plain(*args, **kwargs)
        return _ops.layer(list(args), path)

    return forward


# --- in the graph -----------------------------------------------------------------------------------------


def write_operators(graph: fx.Graph) -> None:
    """The operators' calls as what they stand for."""
    for node in [n for n in graph.nodes if n.op == "call_function"]:
        if node.target is _ops.layer.default:
            inputs, path = node.args
            with graph.inserting_before(node):
                call = graph.create_node("call_module", str(path), tuple(inputs))
            call.meta, call.stack_trace = dict(node.meta), node.stack_trace
            node.replace_all_uses_with(call)
            graph.erase_node(node)
        else:
            node.target = _WRITTEN.get(node.target, node.target)
