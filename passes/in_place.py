"""In-place operations become out-of-place ones: later reads of the overwritten value read the result instead.

A block is a pure function of its inputs, and a digital part must not write into a block's output. What overwrites a tensor
that is read again through a view can't be redirected so, and is refused.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import Problem, TraceError
from .naming import function_name, module_of, names_of

aten = torch.ops.aten

IN_PLACE_OPERATORS = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ipow: operator.pow, operator.imatmul: operator.matmul,
    operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
}  # fmt: skip


def _set_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """``x[index] = value`` as a function that leaves x alone."""
    changed = x.clone()
    changed[index] = value
    return changed


def make_out_of_place(graph: fx.Graph, network: nn.Module) -> None:
    """Rewrites every in-place call of ``graph``, in one pass along it.

    Raises:
        TraceError: a call overwrites a view of a tensor that is read again under its other name.
    """
    memory = _Memory(graph, network)
    for node in list(graph.nodes):
        if (overwritten := _operand(node)) is not None:
            _redirect(node, overwritten, memory)
        memory.note(node)


def _redirect(node: fx.Node, overwritten: fx.Node, memory: _Memory) -> None:
    """Makes one call out-of-place, where it is in place, and lets it be read instead of what it would overwrite."""
    if isinstance(out := node.kwargs.get("out"), fx.Node):  # torch.add(a, b, out=c)
        node.kwargs = {k: v for k, v in node.kwargs.items() if k != "out"}
        memory.read_instead(out, node)
    if memory.base(overwritten).op == "get_attr":
        return  # writes to a buffer of the model: that is what it means
    if _make_out_of_place(node, memory.network) and not _is_number(overwritten):
        if memory.is_read_through_a_view(node, overwritten):
            raise TraceError(_overwritten_view(node, memory.network))
        memory.read_instead(overwritten, node)


class _Memory:
    """Which values share memory, of the calls up to the present one, whose operands are final."""

    def __init__(self, graph: fx.Graph, network: nn.Module):
        self.network = network
        self.order = {n: i for i, n in enumerate(graph.nodes)}
        self.bases: dict[fx.Node, fx.Node] = {}
        self.names: dict[fx.Node, list[fx.Node]] = {}  # by base: its views that may be read again, and itself

    def note(self, node: fx.Node) -> None:
        base = self.bases[node] = _base_of(node, self.network, self.bases)
        self.names.setdefault(base, []).append(node)

    def base(self, node: fx.Node) -> fx.Node:
        return self.bases[node]

    def readers_after(self, value: fx.Node, node: fx.Node) -> list[fx.Node]:
        return [u for u in value.users if self.order[u] > self.order[node]]

    def read_instead(self, value: fx.Node, node: fx.Node) -> None:
        for reader in self.readers_after(value, node):
            reader.replace_input_with(value, node)

    def is_read_through_a_view(self, node: fx.Node, overwritten: fx.Node) -> bool:
        """Whether something reads, after ``node`` has overwritten its operand, the same memory under another name.

        A value that nothing reads any more never gains a reader, and is forgotten: so every name is looked at once.
        """
        names = self.names[self.base(overwritten)]
        while names and (names[-1] is overwritten or not self.readers_after(names[-1], node)):
            names.pop()
        return bool(names)


def _base_of(node: fx.Node, network: nn.Module, bases: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """What a chain of views looks at, given the same of the values before."""
    first = node.args[0] if node.args else None
    return bases[first] if isinstance(first, fx.Node) and _is_view(node, network) else node


def bases_of(graph: fx.Graph, network: nn.Module) -> dict[fx.Node, fx.Node]:
    """For each value what its memory belongs to: itself, or what it is a view of."""
    bases: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        bases[node] = _base_of(node, network, bases)
    return bases


def written_by(node: fx.Node, network: nn.Module) -> tuple[fx.Node, ...]:
    """The operands that a call overwrites."""
    operand = _operand(node) if node.op.startswith("call") else None
    flagged = node.kwargs.get("inplace") is True or getattr(module_of(node, network), "inplace", False) is True
    return (operand,) if operand is not None and (flagged or (node.op != "call_module" and _writes(node))) else ()


def overwritten_buffers(graph: fx.Graph, bases: Mapping[fx.Node, fx.Node]) -> frozenset[str]:
    """Paths of the buffers that a call writes into: whoever reads one must run before or after, as the model does."""
    written = (bases[operand] for n in graph.nodes if (operand := _operand(n)) is not None and _writes(n))
    return frozenset(str(base.target) for base in written if base.op == "get_attr")


def buffers_of(node: fx.Node, bases: Mapping[fx.Node, fx.Node]) -> set[str]:
    """Paths of the attributes that a call reads or writes, itself or through views of them."""
    return {str(base.target) for i in node.all_input_nodes if (base := bases[i]).op == "get_attr"}


def _operand(node: fx.Node) -> fx.Node | None:
    """What an in-place call would overwrite."""
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def _writes(node: fx.Node) -> bool:
    """Whether a call that was left as it is writes into its first operand."""
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    schema = getattr(node.target, "_schema", None)
    return (
        bool(schema is not None and schema.is_mutable)
        or node.target in IN_PLACE_OPERATORS
        or node.target is operator.setitem
        or _functional_twin(node.target) is not None
    )


_VIEWS = frozenset((
    "view", "view_as", "reshape", "reshape_as", "flatten", "ravel", "unflatten", "transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis",
    "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "narrow", "select", "slice", "chunk", "split", "split_with_sizes", "tensor_split",
    "hsplit", "vsplit", "dsplit", "unbind", "unfold", "as_strided", "detach", "alias", "contiguous", "t", "adjoint", "diagonal", "real", "imag",
    "view_as_real", "view_as_complex", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
))  # fmt: skip
_CONVERSIONS = frozenset(("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda"))
"""What returns its operand itself where that has the type already: taken for granted of a computed value, not of an argument."""
_VIEW_LAYERS = (nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
"""Operations whose result may share the memory of their operand."""


def _is_view(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(module_of(node, network), _VIEW_LAYERS)
    if (
        node.target is operator.getitem
    ):  # one of several results is not a view; a slice of one, or a part of a split, is
        source = node.args[0]
        return not isinstance(node.args[1], int) or (
            isinstance(source, fx.Node) and (source.op == "get_attr" or _is_view(source, network))
        )
    if node.target is getattr:
        return node.args[1] in ("T", "mT", "H", "mH", "data", "real", "imag")
    name = function_name(node.target)
    return name in _VIEWS or (name in _CONVERSIONS and _operand(node) is not None and node.args[0].op != "placeholder")  # type: ignore[union-attr]


def _is_number(node: fx.Node) -> bool:
    """A size, or arithmetic of sizes: ``n += 1`` gives another number, and leaves the first one as it is."""
    if node.op == "call_method":
        return node.target in ("dim", "numel", "item") or (node.target == "size" and len(node.args) > 1)
    if node.target is operator.getitem:
        shape = node.args[0]
        return isinstance(shape, fx.Node) and (
            (shape.target is getattr and shape.args[1] == "shape")
            or (shape.op == "call_method" and shape.target == "size")
        )
    of_numbers = node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator"
    return of_numbers and bool(node.all_input_nodes) and all(_is_number(i) for i in node.all_input_nodes)


def _overwritten_view(node: fx.Node, network: nn.Module) -> Problem:
    return Problem(
        f"layer {names_of(node, network)[2]}", "overwrites a view of a tensor that is read again under its other name",
        "Write it out of place, as in y = relu(x.view(...)), or keep the module that contains it out with digital=[...].",
    )  # fmt: skip


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
    if node.target in IN_PLACE_OPERATORS:
        node.target = IN_PLACE_OPERATORS[node.target]
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
