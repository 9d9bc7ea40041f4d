"""Pass 2, canonicalize: one spelling for everything that means the same, and a reading for every call.

In-place operations become out-of-place ones (later reads of the overwritten value are redirected), operations
that do nothing are dropped, batch sizes are read where the batch enters, and each call is read by its rule.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir import Origin, Weight
from ..rules import FORMS, Call, Reading, Refusal, Role, Rule, Rules
from ..rules.own_kinds import with_own_kind
from .contexts import with_autocast
from .drawing_order import RANDOM, drawing_calls
from .history import cut_history
from .in_place import make_out_of_place
from .mixed_precision import keep_autocast
from .naming import called_layers, module_of, origins_of
from .stages import Traced
from .symbolic_trace import is_hooked
from .touched import stand_beside_readers, touched_tensors
from .writes import is_impure

aten = torch.ops.aten


@dataclass(frozen=True)
class Canonical:
    """Stage 2: the cleaned graph; for each call its rule and reading, or why it has none; the overwritten buffers that calls touch;
    the paths of the layers that ran, or are called as a whole, as traced; the rules of the user's own that matched a call."""

    traced: Traced
    graph: fx.Graph
    readings: Mapping[fx.Node, Reading | Refusal]
    rules: Mapping[fx.Node, Rule]
    origins: Mapping[fx.Node, Origin]
    touched: Mapping[fx.Node, frozenset[str]] = field(default_factory=dict)
    called: frozenset[str] = frozenset()
    matched: tuple[Rule, ...] = ()
    beside: frozenset[fx.Node] = frozenset()

    @property
    def network(self) -> nn.Module:
        return self.traced.network


def canonicalize(traced: Traced, rules: Rules) -> Canonical:
    graph, called = traced.graph, called_layers(traced.graph)
    _drop_identity_layers(graph, traced.network)
    make_out_of_place(graph, traced.network)
    cut_history(graph, traced.network)
    keep_autocast(graph, traced.network)
    graph.eliminate_dead_code(is_impure_node=is_impure)
    found = _found(graph, traced.network, rules)
    matched = _of_own(found.values(), rules)
    _drop_identities(traced, rules, _keeping_state(graph, traced.network, found))
    found = _found(graph, traced.network, rules)
    readings = _read_all(graph, traced, found, matched)
    _read_batch_at_its_source(graph, readings)
    keeping_state = _keeping_state(graph, traced.network, found)
    beside = stand_beside_readers(graph, traced.network, keeping_state)
    graph.eliminate_dead_code(is_impure_node=is_impure)
    live = set(graph.nodes)
    touched = touched_tensors(graph, traced.network, keeping_state)
    readings = {n: _unless_overwritten(r, n in touched) for n, r in _read_all(graph, traced, found, matched).items()}
    return Canonical(
        traced,
        graph,
        readings,
        {n: r for n, r in found.items() if n in live},
        origins_of(graph, traced.network),
        _in_order(touched, drawing_calls(graph, traced.network)),
        called,
        matched,
        beside,
    )


def _in_order(
    touched: Mapping[fx.Node, frozenset[str]], drawing: Iterable[fx.Node]
) -> Mapping[fx.Node, frozenset[str]]:
    """What calls touch, the random numbers too."""
    return {**touched, **{n: touched.get(n, frozenset()) | {RANDOM} for n in drawing}}


def _found(graph: fx.Graph, network: nn.Module, rules: Rules) -> dict[fx.Node, Rule]:
    return {n: rule for n in graph.nodes if (rule := rules.find(n, module_of(n, network))) is not None}


def _of_own(found: Iterable[Rule], rules: Rules) -> tuple[Rule, ...]:
    """The rules of the user's among those that were found."""
    ids = {id(rule) for rule in found}
    return tuple(rule for rule in rules.own if id(rule) in ids)


def _keeping_state(graph: fx.Graph, network: nn.Module, found: Mapping[fx.Node, Rule]) -> frozenset[str]:
    """The paths of modules of the user's own that are called as a whole, and may keep a state between calls."""
    called = [(str(n.target), m) for n in graph.nodes if n not in found and (m := module_of(n, network)) is not None]
    return frozenset(path for path, m in called if type(m).__module__.split(".")[0] != "torch" or is_hooked(m))


def _unless_overwritten(reading: Reading | Refusal, touched: bool) -> Reading | Refusal:
    """A block reads its weights when it runs, which may be after a later call of the model has changed them."""
    return (
        Refusal("it reads a buffer that the model overwrites as it runs")
        if touched and isinstance(reading, Reading)
        else reading
    )


# --- identities -------------------------------------------------------------------------------------------


def _drop_identity_layers(graph: fx.Graph, network: nn.Module) -> None:
    """Before what is in place: an identity's result is its operand, and is overwritten with it."""
    for node in list(graph.nodes):
        module = module_of(node, network)
        if (
            isinstance(module, nn.Identity)
            and not _is_hooked(module)
            and isinstance(operand := next(iter((*node.args, *node.kwargs.values())), None), fx.Node)
        ):
            node.replace_all_uses_with(operand)
            graph.erase_node(node)


def _drop_identities(traced: Traced, rules: Rules, keeping_state: Collection[str]) -> None:
    graph, network = traced.graph, traced.network
    touched = touched_tensors(graph, network, keeping_state)  # a copy of what is overwritten later is what it was
    for node in list(graph.nodes):
        module = module_of(node, network)
        rule = rules.find(node, module)
        if rule is None or rule.role is not Role.IDENTITY or _is_hooked(module) or node in touched:
            continue
        reading = rule.read(_call(node, network, rule))
        if isinstance(reading, Reading) and isinstance(reading.operands[0], fx.Node):
            node.replace_all_uses_with(reading.operands[0])
            graph.erase_node(node)


def _is_hooked(module: nn.Module | None) -> bool:
    return module is not None and is_hooked(module)


# --- readings ---------------------------------------------------------------------------------------------


def _call(node: fx.Node, network: nn.Module, rule: Rule) -> Call:
    module = module_of(node, network)
    signature = rule.signature if module is None else argument_names(type(module).forward)
    arguments = {**dict(zip(signature, node.args, strict=False)), **node.kwargs}
    if module is not None and signature and signature[0] in arguments:
        arguments.setdefault("input", arguments[signature[0]])
    if "x" in arguments and "input" not in arguments:
        arguments["input"] = arguments.pop("x")
    if "self" in arguments and "input" not in arguments:
        arguments["input"] = arguments.pop("self")

    def weight_of(operand: fx.Node) -> Weight | None:
        return (
            Weight(str(operand.target))
            if operand.op == "get_attr" and isinstance(_attribute(network, operand), Tensor)
            else None
        )

    return Call(node, module, str(node.target) if node.op == "call_module" else None, arguments, weight_of)


def _attribute(network: nn.Module, node: fx.Node) -> Any:
    value: Any = network
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


@functools.lru_cache(maxsize=1024)
def argument_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a module's arguments, in order."""
    return tuple(inspect.signature(forward).parameters)[1:]


def _read_all(
    graph: fx.Graph, traced: Traced, found: Mapping[fx.Node, Rule], own: Sequence[Rule]
) -> dict[fx.Node, Reading | Refusal]:
    readings = {n: _read(n, traced, found.get(n)) for n in graph.nodes if n.op.startswith("call")}
    ids = {id(rule) for rule in own}
    return {n: _of_own_rule(n, r, found[n]) if id(found.get(n)) in ids else r for n, r in readings.items()}


def _of_own_rule(node: fx.Node, reading: Reading | Refusal, rule: Rule) -> Reading | Refusal:
    """A rule of the user's reads every value that its call is given: one that it leaves out would be lost without a
    word."""
    if isinstance(reading, Refusal):
        return reading
    unread = [n for n in node.all_input_nodes if n not in reading.operands and n.op != "get_attr"]
    if unread:
        return Refusal(f"its rule {rule.name!r} does not read {unread[0].name}, which it is given")
    return with_own_kind(reading, FORMS)


def _read(node: fx.Node, traced: Traced, rule: Rule | None) -> Reading | Refusal:
    network = traced.network
    if node.op == "call_module" and (reason := traced.whole.get(str(node.target))) is not None:
        return Refusal(f"called as a whole: {reason}")
    if node.target is with_autocast:
        return Refusal("the model computes it under its own autocast")
    if rule is None:
        return Refusal("no rule: this operation has no energy")
    if _is_hooked(module_of(node, network)):
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
    sources = _batch_sources(graph, readings)
    for node in list(graph.nodes):
        if (subject := _batch_size_of(node)) is not None and (source := sources[subject]) is not subject:
            with graph.inserting_before(node):
                size = graph.call_method("size", (source, 0))
            node.replace_all_uses_with(size)
            graph.erase_node(node)


def _batch_sources(graph: fx.Graph, readings: Mapping[fx.Node, Reading | Refusal]) -> dict[fx.Node, fx.Node]:
    """For each value the earliest one of the same batch size; a sum of two batches may be a broadcast, and is one
    of its own."""
    sources: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        reading = readings.get(node)
        read = _same_batch(reading) if isinstance(reading, Reading) else []
        found = {sources[o] for o in read if isinstance(o, fx.Node)}
        first = isinstance(next(iter(read), None), fx.Node)
        sources[node] = found.pop() if first and len(found) == 1 else node
    return sources


def _same_batch(reading: Reading) -> list[fx.Node | Weight | None]:
    """What a call reads that has the batch of its result."""
    if reading.batch_size is not None:
        return [_batch_size_of(reading.batch_size)]
    return [o for o in reading.operands if o not in reading.given] if reading.keeps_batch else []


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
