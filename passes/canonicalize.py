"""Pass 2, canonicalize: one spelling for everything that means the same, and a reading for every call.

In-place operations become out-of-place ones (later reads of the overwritten value are redirected), operations
that do nothing are dropped, batch sizes are read where the batch enters, and each call is read by its rule.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import Problem, TraceError
from ..ir import Origin, Weight
from ..rules import Call, Reading, Refusal, Role, Rule, Rules
from .trace import Traced

aten = torch.ops.aten


@dataclass(frozen=True)
class Canonical:
    """Stage 2: the cleaned graph; for each call its rule and reading, or why it has none."""

    traced: Traced
    graph: fx.Graph
    readings: Mapping[fx.Node, Reading | Refusal]
    rules: Mapping[fx.Node, Rule]
    origins: Mapping[fx.Node, Origin]

    @property
    def network(self) -> nn.Module:
        return self.traced.network


def canonicalize(traced: Traced, rules: Rules) -> Canonical:
    graph = traced.graph
    _drop_identity_layers(graph, traced.network)
    _out_of_place(graph, traced.network)
    graph.eliminate_dead_code(is_impure_node=_is_impure)
    _drop_identities(graph, traced.network, rules)
    found = {n: rule for n in graph.nodes if (rule := rules.find(n, _module(n, traced.network))) is not None}
    readings = _read_all(graph, traced, found)
    _read_batch_at_its_source(graph, readings)
    graph.eliminate_dead_code(is_impure_node=_is_impure)
    live = set(graph.nodes)
    readings = {n: r for n, r in _read_all(graph, traced, found).items() if n in live}
    return Canonical(traced, graph, readings, {n: r for n, r in found.items() if n in live}, _origins(graph, traced.network))


def _module(node: fx.Node, network: nn.Module) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_impure(node: fx.Node) -> bool:
    """Kept though nothing reads it: it writes to a buffer, or checks the user's input."""
    if node.op in ("placeholder", "output", "call_module"):
        return True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    name = getattr(node.target, "__name__", "")
    return bool(schema is not None and schema.is_mutable) or node.target in (torch._assert,) or name.startswith("_assert")


# --- in place -> out of place ---------------------------------------------------------------------------

_IN_PLACE_OPERATORS = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ipow: operator.pow, operator.imatmul: operator.matmul,
    operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
}  # fmt: skip


def _set_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """``x[index] = value`` as a function that leaves x alone."""
    changed = x.clone()
    changed[index] = value
    return changed


def _out_of_place(graph: fx.Graph, network: nn.Module) -> None:
    for node in list(graph.nodes):
        if not node.args or not isinstance(node.args[0], fx.Node):
            continue
        overwritten = node.args[0]
        if isinstance(out := node.kwargs.get("out"), fx.Node):  # torch.add(a, b, out=c)
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "out"}
            for reader in [u for u in out.users if u in _after(node)]:
                reader.replace_input_with(out, node)
        if overwritten.op == "get_attr":
            continue  # writes to a buffer of the model: that is what it means
        if _make_out_of_place(node, network):
            later = _after(node)
            if _read_through_a_view(graph, network, node, later):
                raise TraceError(_overwritten_view(node, network))
            for reader in [u for u in overwritten.users if u in later]:
                reader.replace_input_with(overwritten, node)


_VIEWS = frozenset((
    "view", "view_as", "reshape", "flatten", "unflatten", "transpose", "swapaxes", "permute", "movedim", "squeeze", "unsqueeze", "expand",
    "expand_as", "narrow", "select", "slice", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "detach", "alias",
    "contiguous", "t", "diagonal", "dropout",
))  # fmt: skip
_VIEW_LAYERS = (nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
"""Operations whose result may share the memory of their operand."""


def _read_through_a_view(graph: fx.Graph, network: nn.Module, node: fx.Node, later: set[fx.Node]) -> bool:
    """Whether something reads, after ``node`` has overwritten its operand, the same memory under another name."""
    overwritten = node.args[0]
    assert isinstance(overwritten, fx.Node)
    base = _base(overwritten, network)
    others = [n for n in graph.nodes if n not in later and n not in (node, overwritten) and _base(n, network) is base]
    return any(user in later for other in others for user in other.users)


def _base(node: fx.Node, network: nn.Module) -> fx.Node:
    """What a chain of views looks at."""
    while node.args and isinstance(node.args[0], fx.Node) and _is_view(node, network):
        node = node.args[0]
    return node


def _is_view(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(_module(node, network), _VIEW_LAYERS)
    if node.target is operator.getitem:  # one of several results is not a view; a slice of one, or a part of a split, is
        source = node.args[0]
        return not isinstance(node.args[1], int) or (isinstance(source, fx.Node) and _is_view(source, network))
    if node.target is getattr:
        return node.args[1] in ("T", "mT", "data")
    return _function_name(node.target) in _VIEWS


def _overwritten_view(node: fx.Node, network: nn.Module) -> Problem:
    return Problem(
        f"layer {_names(node, network)[2]}", "overwrites a view of a tensor that is read again under its other name",
        "Write it out of place, as in y = relu(x.view(...)), or keep the module that contains it out with digital=[...].",
    )  # fmt: skip


def _after(node: fx.Node) -> set[fx.Node]:
    later, current = set(), node.next
    while current.op != "root":
        later.add(current)
        current = current.next
    return later


def _make_out_of_place(node: fx.Node, network: nn.Module) -> bool:
    """Rewrites ``node`` if it is in place; says whether it was."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return getattr(module, "inplace", False) is True  # the flag stays for the next mode; convert() clears it last
    if node.op == "call_method":
        name = str(node.target)
        if name.endswith("_") and not name.endswith("__") and hasattr(Tensor, name[:-1]):
            node.target = name[:-1]
            return True
        return False
    if node.op != "call_function":
        return False
    if node.kwargs.get("inplace") is True or _positional_inplace(node):
        node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
        return True
    if node.target in _IN_PLACE_OPERATORS:
        node.target = _IN_PLACE_OPERATORS[node.target]
        return True
    if node.target is operator.setitem:
        node.target = _set_item
        return True
    twin = _functional_twin(node.target)
    if twin is not None:
        node.target = twin
        return True
    return False


def _positional_inplace(node: fx.Node) -> bool:
    """``F.relu(x, True)``."""
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    if "inplace" not in names:
        return False
    i = names.index("inplace")
    if i < len(node.args) and node.args[i] is True:
        node.args = (*node.args[:i], False, *node.args[i + 1 :])
        return True
    return False


def _functional_twin(target: Any) -> Any:
    """``torch.relu_`` -> ``torch.relu``; ``aten.add_.Tensor`` -> ``aten.add.Tensor``."""
    if isinstance(target, torch._ops.OpOverload):
        packet, overload = target._schema.name.split("::")[-1], target._overloadname
        if not packet.endswith("_") or packet.endswith("__") or target.namespace != "aten":
            return None
        return getattr(getattr(aten, packet[:-1], None), overload, None)
    name = getattr(target, "__name__", "")
    if not callable(target) or not name.endswith("_") or name.endswith("__") or name.startswith("_"):
        return None
    for home in (torch, torch.nn.functional):
        if getattr(home, name, None) is target:
            return getattr(home, name[:-1], None) or getattr(torch, name[:-1], None)
    return None


# --- identities -------------------------------------------------------------------------------------------


def _drop_identity_layers(graph: fx.Graph, network: nn.Module) -> None:
    """Before what is in place: an identity's result is its operand, and is overwritten with it."""
    for node in list(graph.nodes):
        module = _module(node, network)
        if isinstance(module, nn.Identity) and not _is_hooked(module) and isinstance(node.args[0], fx.Node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _drop_identities(graph: fx.Graph, network: nn.Module, rules: Rules) -> None:
    for node in list(graph.nodes):
        module = _module(node, network)
        rule = rules.find(node, module)
        if rule is None or rule.role is not Role.IDENTITY or _is_hooked(module):
            continue
        reading = rule.read(_call(node, network, rule))
        if isinstance(reading, Reading) and isinstance(reading.operands[0], fx.Node):
            node.replace_all_uses_with(reading.operands[0])
            graph.erase_node(node)


def _is_hooked(module: nn.Module | None) -> bool:
    return module is not None and any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


# --- readings ---------------------------------------------------------------------------------------------


def _call(node: fx.Node, network: nn.Module, rule: Rule) -> Call:
    signature = rule.signature if node.op != "call_module" else ("input",)
    arguments = {**dict(zip(signature, node.args, strict=False)), **node.kwargs}
    if "x" in arguments and "input" not in arguments:
        arguments["input"] = arguments.pop("x")
    if "self" in arguments and "input" not in arguments:
        arguments["input"] = arguments.pop("self")

    def weight_of(operand: fx.Node) -> Weight | None:
        return Weight(str(operand.target)) if operand.op == "get_attr" and isinstance(_attribute(network, operand), Tensor) else None

    return Call(node, _module(node, network), str(node.target) if node.op == "call_module" else None, arguments, weight_of)


def _attribute(network: nn.Module, node: fx.Node) -> Any:
    value: Any = network
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


def _read_all(graph: fx.Graph, traced: Traced, found: Mapping[fx.Node, Rule]) -> dict[fx.Node, Reading | Refusal]:
    return {n: _read(n, traced, found.get(n)) for n in graph.nodes if n.op.startswith("call")}


def _read(node: fx.Node, traced: Traced, rule: Rule | None) -> Reading | Refusal:
    network = traced.network
    if rule is None:
        return Refusal("no rule: this operation has no energy")
    if _is_hooked(_module(node, network)):
        return Refusal("it has forward or backward hooks, which only a call of the module runs")
    if not node.users:
        return Refusal("nothing reads its result")
    call = _call(node, network, rule)
    if rule.role is Role.NORM and not traced.training and call.arguments.get("training") is True:
        return Refusal("it takes batch statistics in evaluation too, and so couples the samples of a batch")
    try:
        reading = rule.read(call)
    except (LookupError, TypeError, ValueError) as failure:
        return Refusal(f"its arguments do not read as {rule.name}: {failure}")
    if isinstance(reading, Refusal):
        return reading
    if not any(isinstance(o, fx.Node) and o not in reading.given for o in reading.operands):
        return Refusal("it reads weights only")
    if any(isinstance(o, fx.Node) and o.op == "get_attr" for o in reading.operands):
        return Refusal("one of its operands is an attribute that is not a tensor")
    return reading


# --- batch sizes ------------------------------------------------------------------------------------------


def _read_batch_at_its_source(graph: fx.Graph, readings: Mapping[fx.Node, Reading | Refusal]) -> None:
    """``h.size(0)`` deep in the model is the size of what entered it: so a block needs no size of its own state."""
    for node in list(graph.nodes):
        if (subject := _batch_size_of(node)) is None:
            continue
        source = subject
        while isinstance(reading := readings.get(source), Reading) and reading.keeps_batch:
            first = reading.operands[0]
            if not isinstance(first, fx.Node):
                break
            source = first
        if source is not subject:
            with graph.inserting_before(node):
                size = graph.call_method("size", (source, 0))
            node.replace_all_uses_with(size)
            graph.erase_node(node)


def _batch_size_of(node: fx.Node) -> fx.Node | None:
    """The tensor whose dimension 0 this node reads."""
    if node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
        return node.args[0] if isinstance(node.args[0], fx.Node) else None
    if node.op == "call_function" and node.target is aten.sym_size.int and node.args[1:] == (0,):
        return node.args[0] if isinstance(node.args[0], fx.Node) else None
    if node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0:
        shape = node.args[0]
        if isinstance(shape, fx.Node) and (
            (shape.op == "call_function" and shape.target is getattr and shape.args[1] == "shape")
            or (shape.op == "call_method" and shape.target == "size" and len(shape.args) == 1)
        ):
            return shape.args[0] if isinstance(shape.args[0], fx.Node) else None
    return None


# --- the user's names -------------------------------------------------------------------------------------


def _origins(graph: fx.Graph, network: nn.Module) -> dict[fx.Node, Origin]:
    origins: dict[fx.Node, Origin] = {}
    uses: dict[str, int] = {}
    for node in graph.nodes:
        layer, kind, label = _names(node, network)
        uses[label] = uses.get(label, 0) + 1
        unique = label if uses[label] == 1 else f"{label}@{uses[label]}"
        origins[node] = Origin(unique, layer, kind, _location(node))
    return origins


def _names(node: fx.Node, network: nn.Module) -> tuple[str, str, str]:
    if node.op == "call_module":
        target = str(node.target)
        return target, type(network.get_submodule(target)).__name__, target
    if not node.op.startswith("call"):
        return "", node.op, str(node.target)
    layer = _enclosing(node)
    kind = _function_name(node.target)
    own = _own_leaf(layer, network)
    if own is not None:  # torch.export opens leaf modules: the call is the layer itself
        return layer, own, layer
    return layer, kind, f"{layer}.{kind}" if layer else kind


def _own_leaf(layer: str, network: nn.Module) -> str | None:
    try:
        module = network.get_submodule(layer) if layer else None
    except AttributeError:
        return None
    if module is not None and not list(module.children()) and type(module).__module__.startswith("torch.nn"):
        return type(module).__name__
    return None


def _enclosing(node: fx.Node) -> str:
    """The module in whose forward the call stands."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    entry = list(stack.values())[-1]
    path = entry[0] if isinstance(entry, tuple) else str(list(stack)[-1])
    for prefix in ("L['self'].", "L__self__."):
        path = path.removeprefix(prefix)
    return "" if path in ("L['self']", "L__self__") else path


def _function_name(target: Any) -> str:
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    name = getattr(target, "__name__", str(target))
    if name == "fn":  # boolean_dispatch hides the name of pooling functions
        names = [n for n in dir(torch.nn.functional) if getattr(torch.nn.functional, n) is target]
        return names[0] if names else name
    return name.strip("_")


def _location(node: fx.Node) -> str | None:
    """The line of the user's code, from the innermost frame outside of torch."""
    lines = [x.strip() for x in (node.meta.get("stack_trace") or node.stack_trace or "").splitlines()]
    frames = [x for x in lines if x.startswith("File ") and "/torch/" not in x]
    if not frames:
        return None
    file, line = frames[-1].split(", ")[:2]
    return f"{file.removeprefix('File ').strip(chr(34)).rsplit('/', 1)[-1]}:{line.removeprefix('line ')}"
