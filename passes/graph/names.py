"""The user's names for what was traced: the layer, the function, the line of their file, the path in their model."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx, nn

from ...ir import Origin
from ...torch_private import Operator
from ..torch_private import schema_of
from .contexts import called


def module_of(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """The module that a call calls."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def origins_of(graph: fx.Graph, network: nn.Module) -> dict[fx.Node, Origin]:
    """The origin of every node; a label that returns is numbered."""
    origins: dict[fx.Node, Origin] = {}
    uses: dict[str, int] = {}
    for node in graph.nodes:
        layer, kind, label = names_of(node, network)
        uses[label] = uses.get(label, 0) + 1
        unique = label if uses[label] == 1 else f"{label}@{uses[label]}"
        origins[node] = Origin(unique, layer, kind, location_of(node))
    return origins


def names_of(node: fx.Node, network: nn.Module) -> tuple[str, str, str]:
    """(layer, kind, label) of a node."""
    if node.op == "call_module":
        target = str(node.target)
        kind = type(network.get_submodule(target)).__name__
        return target, kind, target or kind
    if not node.op.startswith("call"):
        return "", node.op, str(node.target)
    layer, kind = enclosing_module(node), function_name(called(node))
    module = value_at(network, layer) if layer and has_path(network, layer) else None
    if isinstance(module, nn.Module) and not list(module.children()) and type(module).__module__.startswith("torch.nn"):
        return layer, type(module).__name__, layer  # torch.export opens leaf modules: the call is the layer itself
    return layer, kind, f"{layer}.{kind}" if layer else kind


def called_layers(graph: fx.Graph) -> frozenset[str]:
    """The paths of the modules that are called, or in whose forward a call stands."""
    around = (_path(key, value) for n in graph.nodes for key, value in (n.meta.get("nn_module_stack") or {}).items())
    return frozenset([*around, *(str(n.target) for n in graph.nodes if n.op == "call_module")])


def enclosing_module(node: fx.Node) -> str:
    """The module in whose forward the call stands."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    return _path(*list(stack.items())[-1])


def _path(key: Any, entry: Any) -> str:
    """The path of an entry of ``nn_module_stack``, as either tracer writes it."""
    path = str(entry[0] if isinstance(entry, tuple) else key)
    for prefix in ("L['self'].", "L__self__."):
        path = path.removeprefix(prefix)
    return "" if path in ("L['self']", "L__self__") else path


def function_name(target: Any) -> str:
    """The name of a function or method, however it is wrapped."""
    if isinstance(target, str):
        return target
    if isinstance(target, Operator):
        return str(schema_of(target).name.split("::")[-1])
    name = getattr(target, "__name__", str(target))
    return _dispatched_name(target) if name == "fn" else name.strip("_")


@functools.lru_cache(maxsize=64)
def _dispatched_name(target: Any) -> str:
    """boolean_dispatch hides the name of pooling functions."""
    return next((n for n in dir(torch.nn.functional) if getattr(torch.nn.functional, n) is target), "fn")


def location_of(node: fx.Node) -> str | None:
    """The line of the user's code, from the innermost frame outside of torch."""
    lines = [x.strip() for x in (node.meta.get("stack_trace") or node.stack_trace or "").splitlines()]
    frames = [x for x in lines if x.startswith("File ") and "/torch/" not in x]
    if not frames:
        return None
    file, line = frames[-1].split(", ")[:2]
    return f"{file.removeprefix('File ').strip(chr(34)).rsplit('/', 1)[-1]}:{line.removeprefix('line ')}"


def rename_apart(graph: fx.Graph, network: nn.Module) -> None:
    """Tells values and weights apart by name: an argument ``scale`` beside a parameter ``scale`` gets another."""
    taken = {name for name, _ in (*network.named_parameters(recurse=False), *network.named_buffers(recurse=False))}
    for node in graph.nodes:
        if node.name in taken:
            node._rename(f"{node.name}_value")


def value_at(root: Any, path: str) -> Any:
    """What stands at a path of attributes."""
    for name in path.split("."):
        root = getattr(root, name)
    return root


def has_path(root: Any, path: str) -> bool:
    try:
        value_at(root, path)
    except AttributeError:
        return False
    return True
