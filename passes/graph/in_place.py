"""In-place operations become out-of-place ones: later reads of the overwritten value read the result instead.

A block is a pure function of its inputs, and a digital part must not write into a block's output. Three cases differ:

- what belongs to the model, a buffer or a parameter: the call stays as it is, in its place among the calls that read
  it;
- what belongs to the caller: the model works on a copy of its argument, and writes back into it at the end;
- a tensor that is read again through a view can't be redirected so, and is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from ...errors import Problem
from ..refusals import LosesMeaning
from .aliases import base_of
from .effects import flag_position, is_flagged, operand_of, written_by
from .in_place_twins import COMPARISONS, OPERATORS, as_out, kept, own, twin_of, write_back
from .names import enclosing_module, function_name, location_of, names_of

aten = torch.ops.aten


def make_out_of_place(graph: fx.Graph, network: nn.Module) -> None:
    """Rewrites every in-place call of ``graph``, in one pass along it.

    Raises:
        LosesMeaning: with every call that overwrites what is read again under another name, or that has no out-of-place
            form.
    """
    memory = _Memory(graph, network)
    lost: list[LosesMeaning] = []
    for node in list(graph.nodes):
        try:
            _redirect(node, memory)
        except LosesMeaning as failure:
            lost.append(failure)
        memory.note(node)
    if lost:
        raise LosesMeaning([p for failure in lost for p in failure.problems], lost[0].path)
    for argument, result in memory.given_back.items():
        _give_back(graph, argument, result)


def check_in_place(graph: fx.Graph, network: nn.Module) -> None:
    """Whether a graph can be made out-of-place, which leaves it as it is.

    Raises:
        LosesMeaning: as :func:`make_out_of_place`.
    """
    copy = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    copy.output(copy.graph_copy(graph, copied))
    for node, twin in copied.items():
        twin.stack_trace = node.stack_trace
    make_out_of_place(copy, network)


def _redirect(node: fx.Node, memory: _Memory) -> None:
    """Makes one call out-of-place, where it is in place, and lets its result be read instead of what it overwrites."""
    written = written_by(node, memory.network)
    if not written or _is_number(written[0]):
        _make_out_of_place(node, memory.network)  # n += 1 gives another number
        return
    if all(memory.bases[w].op == "get_attr" for w in written):
        return  # it writes to a tensor of the model: that is what it means
    if len(written) > 1:
        raise _refused(node, memory, "overwrites several tensors at once", "Write each by a call of its own.")
    (overwritten,) = written
    if node.target == "requires_grad_" and memory.bases[overwritten].op == "placeholder":
        memory.read_instead(overwritten, node)  # of an argument it is for the caller to see, and changes no value
        return
    if _is_put_back_at_once(node, overwritten, memory):
        _make_out_of_place(node, memory.network)
        return
    if _is_put_into_its_base(node, overwritten, memory):
        return
    if memory.is_read_through_a_view(node, overwritten):
        what = "overwrites a view of a tensor that is read again under its other name"
        raise _refused(node, memory, what, f"Write it out of place, as in y = relu(x.view(...)), {_OR_KEEP_OUT}")
    _check_argument(node, overwritten, memory)
    if "out" in node.kwargs:
        memory.read_instead(overwritten, _without_out(node, overwritten, memory))
    elif _make_out_of_place(node, memory.network):
        memory.read_instead(overwritten, node)
    else:
        name = function_name(node.target)
        raise _refused(node, memory, f"{name} has no out-of-place form", "Compute a new tensor instead.")


def _is_put_back_at_once(node: fx.Node, overwritten: fx.Node, memory: _Memory) -> bool:
    """``y[i] += x``, which is three calls: ``v = y[i]; v += x; y[i] = v``, with nothing between that reads y."""
    if node.target not in OPERATORS or overwritten.target is not operator.getitem:
        return False
    readers = [r for name in memory.names[memory.bases[overwritten]] for r in memory.readers_after(name, node)]
    following = min((*readers, *node.users), key=memory.order.__getitem__, default=None)
    return (
        following is not None
        and following.target is operator.setitem
        and following.args == (*overwritten.args, node)
        and all(r is following for r in memory.readers_after(overwritten, node))
    )


_PUT_INTO: Mapping[Any, Any] = {
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.select.int: aten.select_scatter.default,
}
"""What takes a part out of a tensor, ``f(tensor, *where)``, and what puts one there, ``g(tensor, part, *where)``."""


def _is_put_into_its_base(node: fx.Node, overwritten: fx.Node, memory: _Memory) -> bool:
    """``y[:, 1:] = x`` as torch.export writes it, ``v = slice(y); copy_(v, x)``, if y has no other name."""
    base = memory.bases[overwritten]
    views = _views_between(overwritten, base)
    readers = memory.readers_after(base, node)
    others = [n for n in memory.names[base] if n not in (base, overwritten) and memory.readers_after(n, node)]
    belongs_to_the_caller = base.op == "placeholder" or base in memory.argument_of
    if not views or not readers or others or belongs_to_the_caller or not _make_out_of_place(node, memory.network):
        return False
    memory.read_instead(overwritten, node)
    whole, behind = node, node
    for view in views:
        with node.graph.inserting_after(behind):
            whole = behind = node.graph.call_function(_PUT_INTO[view.target], (view.args[0], whole, *view.args[1:]))
        whole.meta.update(node.meta)
    memory.insert(whole, node)
    for reader in readers:
        reader.replace_input_with(base, whole)
    return True


def _views_between(view: fx.Node, base: fx.Node) -> list[fx.Node]:
    """The views from a tensor to a view of it, the last first; none where one takes no part that can be put back."""
    views = []
    while view is not base:
        if view.target not in _PUT_INTO or view.kwargs or not isinstance(view.args[0], fx.Node):
            return []
        views.append(view)
        view = view.args[0]
    return views


def _check_argument(node: fx.Node, overwritten: fx.Node, memory: _Memory) -> None:
    """Notes what is to be written back into an argument.

    Raises:
        LosesMeaning: the argument is written through a view of it.
    """
    base = memory.bases[overwritten]
    argument = base if base.op == "placeholder" else memory.argument_of.get(base)
    if argument is None:
        return
    if overwritten is not base:
        what = f"writes into the caller's {argument.target!r} through a view of it"
        raise _refused(node, memory, what, f"Write into a copy of it, as in x = x.clone(), {_OR_KEEP_OUT}")
    memory.argument_of[node] = argument
    memory.given_back[argument] = node


def _give_back(graph: fx.Graph, argument: fx.Node, result: fx.Node) -> None:
    """Lets the model work on a copy of an argument, and write the result into the argument at the end."""
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    with graph.inserting_after(last):
        copy = graph.call_function(own, (argument,))
    argument.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
    with graph.inserting_before(next(n for n in graph.nodes if n.op == "output")):
        graph.call_function(write_back, (argument, copy if result is argument else result))


class _Memory:
    """Which values share memory, of the calls up to the present one, whose operands are final.

    Attributes:
        bases: what each value is, or is a view of.
        names: by base: its views that may be read again, and itself.
        argument_of: results that an argument of the caller's is to hold.
        given_back: by argument, what is written into it at the end.
    """

    def __init__(self, graph: fx.Graph, network: nn.Module):
        self.network = network
        self.order: dict[fx.Node, float] = {n: i for i, n in enumerate(graph.nodes)}
        self.bases: dict[fx.Node, fx.Node] = {}
        self.names: dict[fx.Node, list[fx.Node]] = {}
        self.argument_of: dict[fx.Node, fx.Node] = {}
        self.given_back: dict[fx.Node, fx.Node] = {}

    def note(self, node: fx.Node) -> None:
        base = self.bases[node] = base_of(node, self.network, self.bases)
        self.names.setdefault(base, []).append(node)

    def insert(self, node: fx.Node, behind: fx.Node) -> None:
        self.order[node] = self.order[behind] + 0.5
        self.bases[node] = node
        self.names[node] = [node]

    def readers_after(self, value: fx.Node, node: fx.Node) -> list[fx.Node]:
        return [u for u in value.users if self.order[u] > self.order[node]]

    def read_instead(self, value: fx.Node, node: fx.Node) -> None:
        for reader in self.readers_after(value, node):
            reader.replace_input_with(value, node)

    def is_read_through_a_view(self, node: fx.Node, overwritten: fx.Node) -> bool:
        """Whether something reads, after ``node`` has overwritten its operand, the same memory under another name.

        A value that nothing reads any more never gains a reader, and is forgotten: so every name is looked at once.
        """
        names = self.names[self.bases[overwritten]]
        while names and (names[-1] is overwritten or not self.readers_after(names[-1], node)):
            names.pop()
        return bool(names)


def _is_number(node: fx.Node) -> bool:
    """A size, or arithmetic of sizes: ``n += 1`` gives another number, and leaves the first one as it is."""
    if node.op == "call_method":
        return node.target in ("dim", "numel", "item") or (node.target == "size" and len(node.args) > 1)
    if node.target is operator.getitem:
        return is_shape(node.args[0])
    of_numbers = node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator"
    return of_numbers and bool(node.all_input_nodes) and all(_is_number(i) for i in node.all_input_nodes)


def is_shape(value: Any) -> bool:
    """Whether a value is ``x.shape`` or ``x.size()``, with or without a dimension."""
    if not isinstance(value, fx.Node):
        return False
    return (value.target is getattr and value.args[1] == "shape") or (
        value.op == "call_method" and value.target == "size"
    )


_OR_KEEP_OUT = "or keep the module that contains it out with digital=[...]."


def _refused(node: fx.Node, memory: _Memory, what: str, remedy: str) -> LosesMeaning:
    place = location_of(node)
    label = names_of(node, memory.network)[2]
    problem = Problem(f"layer {label}{f', at {place}' if place else ''}", what, remedy)
    return LosesMeaning(problem, enclosing_module(node))


# --- one call ---------------------------------------------------------------------------------------------

IN_PLACE = "in_place"
"""Marks a call, in its ``meta``, that was in place: it keeps the type and shape of its operand."""


def _make_out_of_place(node: fx.Node, network: nn.Module) -> bool:
    """Rewrites ``node`` if it is in place; says whether it was."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return getattr(module, "inplace", False) is True  # the flag stays for the next mode; convert() clears it last
    if is_flagged(node):
        _clear_flag(node)
        return True
    twin = twin_of(node.target) if node.op.startswith("call") else None
    if twin is None:
        return False
    if callable(twin):
        operand = operand_of(node)
        if not node.args:
            node.kwargs = {k: v for k, v in node.kwargs.items() if v is not operand}
        node.args = (operand, *node.args[1:])
    node.op = "call_function" if callable(twin) else "call_method"
    node.target = twin
    node.meta[IN_PLACE] = True
    return True


_AUGMENTED: Mapping[Any, str] = {plain: in_place.__name__ for in_place, plain in OPERATORS.items()}
"""By an operator that an augmented assignment has become: the name of the assignment's own."""


def keep_type_and_shape(node: fx.Node) -> None:
    """Makes a call that was in place insist on the type and the shape of its operand, if it is made outside of blocks.

    Inside one, all values have the type of the weights.
    """
    name = _AUGMENTED.get(node.target) or function_name(node.target)
    if IN_PLACE in node.meta and name in vars(kept) and (len(node.all_input_nodes) > 1 or name in COMPARISONS):
        node.op, node.target = "call_function", getattr(kept, name)


def _clear_flag(node: fx.Node) -> None:
    position = flag_position(node.target, node.args)
    if position is not None:
        node.args = (*node.args[:position], False, *node.args[position + 1 :])
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}


def _without_out(node: fx.Node, out: fx.Node, memory: _Memory) -> fx.Node:
    """``torch.add(a, b, out=c)`` as a value of c's type."""
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "out"}
    with node.graph.inserting_after(node):
        result = node.graph.call_function(as_out, (node, out))
    result.meta.update(node.meta)
    memory.insert(result, node)
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
    return result
