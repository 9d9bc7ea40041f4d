"""What kind of thing a traced value will be, as far as the graph tells: a tensor, a size, a tuple of tensors."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from .naming import function_name
from .traced_names import has_path

Kind = type | None
"""The type of a value; None where the graph does not tell it."""

PLAIN_KINDS = (int, float, bool, torch.Size, torch.dtype, torch.device)
"""Types of what holds no numbers of a layer."""

_ATTRIBUTES: Mapping[str, type] = {
    "shape": torch.Size, "dtype": torch.dtype, "device": torch.device, "layout": torch.layout, "ndim": int,
    "requires_grad": bool, "is_cuda": bool, "is_leaf": bool, "is_sparse": bool, "is_quantized": bool,
    "T": Tensor, "mT": Tensor, "H": Tensor, "mH": Tensor, "data": Tensor, "real": Tensor, "imag": Tensor,
}  # fmt: skip

_CONVERSIONS = frozenset(("float", "double", "half", "bfloat16", "int", "long", "short", "bool", "type", "cpu", "cuda"))
"""Methods of a tensor that no operator is named after."""

_SCHEMA_KINDS: Mapping[str, type] = {
    "Tensor": Tensor, "List[Tensor]": tuple, "int": int, "bool": bool, "float": float, "List[int]": torch.Size,
}  # fmt: skip
"""Of what an operator returns, by the type that its schema names."""


class Kinds:
    """The type of each value of a graph, found once: as the graph is now, and of what is added when it is asked for.

    Args:
        graph: a graph of ``network``.
        given: the types of placeholders that are known, by name; of others the annotation is taken at its word.
    """

    def __init__(self, graph: fx.Graph, network: nn.Module, given: Mapping[str, Kind] | None = None):
        self._network, self._given = network, given or {}
        self._found: dict[fx.Node, Kind] = {}
        for node in graph.nodes:
            self(node)

    def __call__(self, node: fx.Node) -> Kind:
        pending = [] if node in self._found else [node]
        while pending:  # what it is computed from comes first, and a long chain is no deep recursion
            if unknown := [n for n in pending[-1].all_input_nodes if n not in self._found]:
                pending.extend(unknown)
            elif (one := pending.pop()) not in self._found:
                self._found[one] = self._of(one)
        return self._found[node]

    def _of(self, node: fx.Node) -> Kind:
        if node.op == "get_attr":
            return _of_attribute(self._network, str(node.target))
        if node.op == "placeholder":
            return self._given.get(str(node.target)) or _annotated(node.type)
        if node.op == "call_module":
            module = self._network.get_submodule(str(node.target))
            return _annotated(type(module).forward.__annotations__.get("return"))
        if node.op == "call_method":
            return _of_method(node)
        return self._of_function(node) if node.op == "call_function" else None

    def _of_function(self, node: fx.Node) -> Kind:
        if node.target is getattr:
            return _ATTRIBUTES.get(str(node.args[1]))
        if node.target is operator.getitem:
            return self._of_item(node)
        if getattr(node.target, "__module__", None) == "_operator":
            return _of_arithmetic(self._found[n] for n in node.all_input_nodes)
        return _of_function(node.target)

    def _of_item(self, node: fx.Node) -> Kind:
        whole, index = node.args
        assert isinstance(whole, fx.Node)
        kind = self._found[whole]
        if kind is torch.Size:
            return int if isinstance(index, int) else torch.Size
        if kind is tuple and isinstance(index, int):
            return Tensor if _holds_tensors(whole) else None
        return Tensor if is_tensor(kind) else None


def is_tensor(kind: Kind) -> bool:
    return kind is not None and issubclass(kind, Tensor)


def _of_attribute(network: nn.Module, path: str) -> type:
    """Read past ``getattr``, which gives values of the graph while a network is traced."""
    owner, _, name = path.rpartition(".")
    held = vars(network.get_submodule(owner)) if not owner or has_path(network, owner) else {}
    spaces = (held.get("_parameters", {}), held.get("_buffers", {}), held)
    return next((type(s[name]) for s in spaces if name in s), Tensor)  # else computed: a parametrization


def _annotated(annotation: Any) -> Kind:
    return Tensor if annotation in (Tensor, "Tensor", "torch.Tensor") else None


def _of_method(node: fx.Node) -> Kind:
    name = str(node.target)
    if name == "size":
        return int if len(node.args) + len(node.kwargs) > 1 else torch.Size
    return Tensor if name in _CONVERSIONS else _returned(name)


def _of_arithmetic(kinds: Iterable[Kind]) -> Kind:
    """Of an operator: a tensor where one operand is; of numbers a number."""
    found = set(kinds)
    if any(map(is_tensor, found)):
        return Tensor
    return int if found == {int} else None


def _of_function(target: Any) -> Kind:
    if isinstance(target, torch._ops.OpOverload):
        return _only(_SCHEMA_KINDS.get(str(r.type)) for r in target._schema.returns) if target._schema.returns else None
    module = getattr(target, "__module__", None) or "torch"
    if not module.startswith("torch"):
        return None
    return _annotated(getattr(target, "__annotations__", {}).get("return")) or _returned(function_name(target))


def _only(kinds: Iterable[Kind]) -> Kind:
    """The kind of one result; several come as a tuple."""
    found = list(kinds)
    return found[0] if len(found) == 1 else tuple


@functools.lru_cache(maxsize=512)
def _schemas(name: str) -> tuple[tuple[str, ...], ...]:
    """What each operator of a name returns; the methods and functions of that name are those operators."""
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return ()
    every = (getattr(packet, o)._schema for o in packet.overloads())
    return tuple(tuple(str(r.type) for r in s.returns) for s in every if _takes_tensors(s))


def _takes_tensors(schema: Any) -> bool:
    """Unlike the operators of that name on numbers and lists, which TorchScript has."""
    return bool(schema.arguments) and str(schema.arguments[0].type) in ("Tensor", "List[Tensor]")


def _returned(name: str) -> Kind:
    """What a function or method of PyTorch's returns: known where all operators of its name return the same kind."""
    kinds = {_only(_SCHEMA_KINDS.get(t) for t in returns) for returns in _schemas(name) if returns}
    return kinds.pop() if len(kinds) == 1 else None


def _holds_tensors(node: fx.Node) -> bool:
    """Whether each item of what a call returns is a tensor."""
    if isinstance(node.target, torch._ops.OpOverload):
        returns: tuple[tuple[str, ...], ...] = (tuple(str(r.type) for r in node.target._schema.returns),)
    else:
        returns = _schemas(function_name(node.target))
    return bool(returns) and all(t in ("Tensor", "List[Tensor]") for r in returns for t in r)
