"""Runs a digital part as ordinary PyTorch, and says which of the user's layers failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import FFEBMError
from ..ir import DigitalBlock, Origin
from ..ir.origin import failed_layer


def _directly(origin: Origin, call: Callable[[], Any]) -> Any:
    return call()


def run_digital(
    block: DigitalBlock,
    network: nn.Module,
    values: Mapping[str, Any],
    around: Callable[[Origin, Callable[[], Any]], Any] = _directly,
) -> dict[str, Any]:
    """The outputs of a digital part, by name; modules and weights are looked up in ``network``.

    Args:
        around: makes each call, for one who wants to know which operation of the user's is running.
    """
    computed: dict[fx.Node, Any] = {}
    origins = chain(block.origins, repeat(Origin(block.name, "", "digital part")))  # a part may be one call of a graph
    result: tuple[Any, ...] = ()
    for node in block.graph.nodes:
        if node.op == "placeholder":
            computed[node] = values[node.target]
        elif node.op == "get_attr":
            computed[node] = attribute(network, str(node.target))
        elif node.op == "output":
            result = fx.node.map_arg(node.args[0], computed.__getitem__)
        else:
            origin = next(origins)
            computed[node] = around(origin, partial(_call, node, network, computed, origin))
    return dict(zip(block.outputs, result, strict=True))


def _call(node: fx.Node, network: nn.Module, computed: Mapping[fx.Node, Any], origin: Origin) -> Any:
    args = fx.node.map_arg(node.args, computed.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, computed.__getitem__)
    try:
        if node.op == "call_module":
            return network.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as failure:
        if isinstance(failure, (torch.OutOfMemoryError, FFEBMError)):
            raise
        raise failed_layer(
            origin, failure, [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        ) from failure


def attribute(network: nn.Module, path: str) -> Any:
    """The value at an attribute path: a parameter, a buffer, a parametrized weight."""
    value: Any = network
    for name in path.split("."):
        value = getattr(value, name)
    return value
