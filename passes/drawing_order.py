"""Calls that draw random numbers keep their order: of two dropouts in branches side by side, the one that the model calls first draws first.

A program runs its parts by position, not in the order of the forward. Other draws than the model's, from the same seed, would be
another dropout mask: right in distribution, and no longer the model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .naming import function_name, module_of
from .writes import DRAWS

RANDOM = "random numbers"
"""What such calls touch, as others touch a tensor that is overwritten."""

_OF_TORCH = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def drawing_calls(graph: fx.Graph, network: nn.Module) -> Iterator[fx.Node]:
    """Calls that draw in one mode or the other, as far as can be told; a module of the user's that is called as a
    whole may."""
    for node in graph.nodes:
        module = module_of(node, network)
        if module is not None:
            if _may_draw(module):
                yield node
        elif node.op.startswith("call") and _draws(node):
            yield node


def _may_draw(module: nn.Module) -> bool:
    if not type(module).__module__.startswith("torch."):
        return True
    return any(isinstance(m, _OF_TORCH) or bool(getattr(m, "dropout", 0)) for m in module.modules())


def _draws(node: fx.Node) -> bool:
    if function_name(node.target).removeprefix("init_").rstrip("_") in DRAWS:
        return _argument(node, "training") is not False and _argument(node, "train") is not False
    return _argument(node, "dropout_p") not in (None, 0.0)


def _argument(node: fx.Node, name: str) -> Any:
    """A call's constant of that name; None where it has none."""
    names = _names(node.target)
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return given.get(name)


def _names(target: Any) -> tuple[str, ...]:
    if target is F.scaled_dot_product_attention:  # built in, without a signature
        return _names(torch.ops.aten.scaled_dot_product_attention.default)
    schema = getattr(target, "_schema", None)
    if schema is not None:
        return tuple(a.name for a in schema.arguments)
    try:
        return tuple(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return ()
