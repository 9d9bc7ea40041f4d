"""Casts that a forward makes while torch.export runs it, kept as they are written.

    h.float()    h.to(torch.bfloat16)    h.type(dtype)    h.to(other)    h.type_as(other)

torch.export traces a cast to the type that a tensor has by chance, which under the caller's autocast is another, as no cast: whoever reads
``h`` afterwards then reads the cast, and the program holds for this type alone. So a cast of the user's is an operator of our own, whose
result is always a tensor of its own; in the graph it becomes the cast that was written, which runs as it runs in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

_library = torch.library.Library("ffebm_trace", "FRAGMENT")
_library.define("cast(Tensor x, ScalarType dtype) -> Tensor")
_library.define("cast_as(Tensor x, Tensor other) -> Tensor")


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
    torch.ops.ffebm_trace.cast.default: torch.ops.aten.to.dtype,
    torch.ops.ffebm_trace.cast_as.default: torch.ops.aten.type_as.default,
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
        return torch.ops.ffebm_trace.cast(x, to)  # type: ignore[no-any-return]
    if isinstance(to, Tensor) and to.device == x.device:
        return torch.ops.ffebm_trace.cast_as(x, to)
    return None


def write_casts(graph: fx.Graph) -> None:
    """The operators' calls as the casts that they stand for."""
    for node in graph.nodes:
        node.target = _WRITTEN.get(node.target, node.target) if node.op == "call_function" else node.target
