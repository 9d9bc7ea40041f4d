"""What type of thing a traced value will be, as far as the graph tells: a tensor, a size, a tuple of tensors."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...torch_private import Operator
from ..torch_private import REGISTRIES, OperatorPacket, schema_of
from .names import function_name, has_path

ValueType = type | None
"""The type of a value; None where the graph does not tell it."""

PLAIN_TYPES = (int, float, bool, torch.Size, torch.dtype, torch.device)
"""Types of what holds no numbers of a layer."""

_ATTRIBUTES: Mapping[str, type] = {
    "shape": torch.Size, "dtype": torch.dtype, "device": torch.device, "layout": torch.layout, "ndim": int,
    "requires_grad": bool, "is_cuda": bool, "is_leaf": bool, "is_sparse": bool, "is_quantized": bool,
    "T": Tensor, "mT": Tensor, "H": Tensor, "mH": Tensor, "data": Tensor, "real": Tensor, "imag": Tensor,
}  # fmt: skip

_CONVERSIONS = frozenset(("float", "double", "half", "bfloat16", "int", "long", "short", "bool", "type", "cpu", "cuda"))
"""Methods of a tensor that no operator is named after."""

_IN_SCHEMAS: Mapping[str, type] = {
    "Tensor": Tensor, "List[Tensor]": tuple, "int": int, "bool": bool, "float": float, "List[int]": torch.Size,
}  # fmt: skip
"""Of what an operator returns, by the type that its schema names."""


class ValueTypes:
    """The type of each value of a graph, found once: as the graph is now, and of what is added when it is asked for.

    Args:
        graph: a graph of ``network``.
        given: the types of placeholders that are known, by name; of others the annotation is taken at its word.
    """

    def __init__(self, graph: fx.Graph, network: nn.Module, given: Mapping[str, ValueType] | None = None):
        self._network, self._given = network, given or {}
        self._known: dict[fx.Node, ValueType] = {}
        for node in graph.nodes:
            self(node)

    def __call__(self, node: fx.Node) -> ValueType:
        pending = [] if node in self._known else [node]
        while pending:  # what it is computed from comes first, and a long chain is no deep recursion
            if unknown := [n for n in pending[-1].all_input_nodes if n not in self._known]:
                pending.extend(unknown)
            elif (one := pending.pop()) not in self._known:
                self._known[one] = self._type_of(one)
        return self._known[node]

    def _type_of(self, node: fx.Node) -> ValueType:
        if node.op == "get_attr":
            return _type_of_attribute(self._network, str(node.target))
        if node.op == "placeholder":
            return self._given.get(str(node.target)) or _annotated(node.type)
        if node.op == "call_module":
            module = self._network.get_submodule(str(node.target))
            return _annotated(type(module).forward.__annotations__.get("return"))
        if node.op == "call_method":
            return _returned_by_method(node)
        return self._returned(node) if node.op == "call_function" else None

    def _returned(self, node: fx.Node) -> ValueType:
        """What a call of a function returns."""
        if node.target is getattr:
            return _ATTRIBUTES.get(str(node.args[1]))
        if node.target is operator.getitem:
            return self._type_of_item(node)
        if getattr(node.target, "__module__", None) == "_operator":
            operands = {self._known[n] for n in node.all_input_nodes}
            return Tensor if any(map(is_tensor, operands)) else int if operands == {int} else None
        if isinstance(node.target, Operator):
            return _result(_returns(node.target))
        module = getattr(node.target, "__module__", None) or "torch"
        if not module.startswith("torch"):
            return None
        annotation = getattr(node.target, "__annotations__", {}).get("return")
        return _annotated(annotation) or _returned_by_name(function_name(node.target))

    def _type_of_item(self, node: fx.Node) -> ValueType:
        whole, index = node.args
        assert isinstance(whole, fx.Node)
        kind = self._known[whole]
        if kind is torch.Size:
            return int if isinstance(index, int) else torch.Size
        if kind is tuple and isinstance(index, int):
            return Tensor if _holds_tensors(whole) else None
        return Tensor if is_tensor(kind) else None


def is_tensor(kind: ValueType) -> bool:
    return kind is not None and issubclass(kind, Tensor)


def _type_of_attribute(network: nn.Module, path: str) -> type:
    """Read past ``getattr``, which gives values of the graph while a network is traced."""
    owner, _, name = path.rpartition(".")
    held = vars(network.get_submodule(owner)) if not owner or has_path(network, owner) else {}
    spaces = (*(held.get(r, {}) for r in REGISTRIES[:2]), held)
    return next((type(s[name]) for s in spaces if name in s), Tensor)  # else computed: a parametrization


def _annotated(annotation: Any) -> ValueType:
    return Tensor if annotation in (Tensor, "Tensor", "torch.Tensor") else None


def _returned_by_method(node: fx.Node) -> ValueType:
    name = str(node.target)
    if name == "size":
        return int if len(node.args) + len(node.kwargs) > 1 else torch.Size
    return Tensor if name in _CONVERSIONS else _returned_by_name(name)


def _returned_by_name(name: str) -> ValueType:
    """What a function or method of PyTorch's returns: known where all operators of its name return the same."""
    kinds = {_result(returns) for returns in _returns_of_all(name) if returns}
    return kinds.pop() if len(kinds) == 1 else None


def _result(returns: Sequence[str]) -> ValueType:
    """The type of a result, several of which come as a tuple; None of a call without one."""
    return _IN_SCHEMAS.get(returns[0]) if len(returns) == 1 else tuple if returns else None


def _returns(operator_: Any) -> tuple[str, ...]:
    return tuple(str(r.type) for r in schema_of(operator_).returns)


@functools.lru_cache(maxsize=512)
def _returns_of_all(name: str) -> tuple[tuple[str, ...], ...]:
    """What each operator of a name returns; the methods and functions of that name are those operators."""
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, OperatorPacket):
        return ()
    return tuple(_returns(o) for o in (getattr(packet, n) for n in packet.overloads()) if _takes_tensors(schema_of(o)))


def _takes_tensors(schema: Any) -> bool:
    """Unlike the operators of that name on numbers and lists, which TorchScript has."""
    return bool(schema.arguments) and str(schema.arguments[0].type) in ("Tensor", "List[Tensor]")


def _holds_tensors(node: fx.Node) -> bool:
    """Whether each item of what a call returns is a tensor."""
    target = node.target
    returns = (_returns(target),) if isinstance(target, Operator) else _returns_of_all(function_name(target))
    return bool(returns) and all(t in ("Tensor", "List[Tensor]") for r in returns for t in r)
