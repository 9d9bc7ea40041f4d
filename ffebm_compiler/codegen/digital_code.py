"""A digital part as Python source: one line an operation, layers called by the user's own paths."""

from __future__ import annotations

import keyword
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ..ir import DigitalBlock
from ..torch_private import Operator

_INFIX: Mapping[Any, str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//",
    operator.mod: "%", operator.pow: "**", operator.matmul: "@", operator.gt: ">", operator.lt: "<", operator.ge: ">=",
    operator.le: "<=", operator.eq: "==", operator.ne: "!=", operator.and_: "&", operator.or_: "|",
}  # fmt: skip


def digital_function(block: DigitalBlock) -> tuple[str, list[str]]:
    """The source of ``<name>_forward(network, *inputs) -> outputs``, and the modules that it imports."""
    names: dict[fx.Node, str] = {}
    used: list[str] = []
    origins = iter(block.origins)
    lines: list[str] = []
    for node in block.graph.nodes:
        names[node] = _identifier(node.name)
        if node.op == "placeholder":
            names[node] = _identifier(str(node.target))
        elif node.op == "get_attr":
            lines.append(
                f"{names[node]} = network.{node.target}"
                if _plain(str(node.target))
                else f"{names[node]} = {_lookup(str(node.target))}"
            )
        elif node.op == "output":
            results = [names[n] for n in node.args[0]]
            lines.append(f"return ({', '.join(results)}{',' if len(results) == 1 else ''})")
        else:
            origin = next(origins)
            comment = f"{origin.label}: {block.reasons.get(origin.label, '')}"
            lines.append(f"{names[node]} = {_call(node, names, used)}  # {comment}".rstrip(": "))
    arguments = ", ".join(["network", *(_identifier(n) for n in block.inputs)])
    return "\n".join([f"def {block.name}_forward({arguments}):", *(f"    {line}" for line in lines)]), used


def _identifier(name: str) -> str:
    """fx names are identifiers already; ours must not hide ``network`` or a module."""
    return f"{name}_" if name in ("network", "torch", "operator", "device", "inf", "nan") else name


def _plain(path: str) -> bool:
    """Whether a path can be written with dots: a layer may be called ``0`` or ``class``."""
    return all(p.isidentifier() and not keyword.iskeyword(p) for p in path.split("."))


def _lookup(path: str) -> str:
    owner, _, name = path.rpartition(".")
    where = f"network.get_submodule({owner!r})" if owner else "network"
    return f"{where}.{name}" if _plain(name) else f"getattr({where}, {name!r})"


def _call(node: fx.Node, names: Mapping[fx.Node, str], used: list[str]) -> str:
    def show(value: Any) -> str:
        return _argument(value, names, used)

    arguments = ", ".join([*(show(a) for a in node.args), *(f"{k}={show(v)}" for k, v in node.kwargs.items())])
    if node.op == "call_module":
        path = str(node.target)
        layer = f"network.{path}" if _plain(path) else f"network.get_submodule({path!r})"
        return f"{layer}({arguments})"
    if node.op == "call_method":
        rest = ", ".join([*(show(a) for a in node.args[1:]), *(f"{k}={show(v)}" for k, v in node.kwargs.items())])
        return f"{show(node.args[0])}.{node.target}({rest})"
    if node.target in _INFIX and len(node.args) == 2:
        return f"{show(node.args[0])} {_INFIX[node.target]} {show(node.args[1])}"
    if node.target is operator.getitem:
        return f"{show(node.args[0])}[{show(node.args[1])}]"
    return f"{_qualified(node.target, used)}({arguments})"


def _argument(value: Any, names: Mapping[fx.Node, str], used: list[str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, tuple):
        return "(" + ", ".join(_argument(v, names, used) for v in value) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(_argument(v, names, used) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_argument(v, names, used)}" for k, v in value.items()) + "}"
    if isinstance(value, slice):
        return f"slice({', '.join(_argument(v, names, used) for v in (value.start, value.stop, value.step))})"
    if callable(value) and not isinstance(value, (torch.dtype, torch.device)):
        return _qualified(value, used)
    return repr(value)


def _qualified(target: Any, used: list[str]) -> str:
    """How generated code reaches a function."""
    if isinstance(target, Operator):
        namespace, operator_name = target._schema.name.split("::")
        return f"torch.ops.{namespace}.{operator_name}.{target._overloadname or 'default'}"
    own: str | None = getattr(target, "__name__", None)
    module: str = getattr(target, "__module__", None) or "torch"
    for home in ("torch.nn.functional", "torch", "operator", "builtins"):
        scope = _scope(home)
        for candidate in [n for n in ([own] if own else []) if getattr(scope, n, None) is target] or [
            n for n in dir(scope) if getattr(scope, n, None) is target
        ][:1]:
            return candidate if home == "builtins" else f"{home}.{candidate}"
    qualified: str = getattr(target, "__qualname__", str(target))
    if module not in used:
        used.append(module)
    return f"{module}.{qualified}"


def _scope(name: str) -> Any:
    import builtins

    return {"torch.nn.functional": torch.nn.functional, "torch": torch, "operator": operator, "builtins": builtins}[
        name
    ]
