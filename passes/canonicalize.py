"""Pass 2, canonicalize: one spelling for everything that means the same, and a reading for every call.

In-place operations become out-of-place ones (later reads of the overwritten value are redirected), operations
that do nothing are dropped, batch sizes are read where the batch enters, and each call is read by its rule.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from ..ir import Origin, Weight
from ..rules import FORMS, Call, Reading, Refusal, Role, Rule, Rules
from ..rules.own_kinds import with_own_kind
from .graph.contexts import with_autocast
from .graph.effects import RANDOM, argument_names, drawing_calls, is_hooked, is_impure
from .graph.in_place import is_shape, make_out_of_place
from .graph.names import called_layers, module_of, origins_of, value_at
from .graph.overwritten import overwritten_tensors, stand_beside_readers
from .graph.regions import cut_history, keep_autocast
from .stages import Traced

aten = torch.ops.aten


@dataclass(frozen=True)
class Canonical:
    """Stage 2.

    Attributes:
        traced: the stage before.
        graph: the cleaned graph.
        readings: for each call how it is read, or why it is not.
        rules: the rule of each call that has one.
        origins: the user's names.
        touched: what calls have to keep their order for: the tensors that the model overwrites, random numbers.
        called: the paths of the layers that ran, or are called as a whole, as traced.
        matched: the rules of the user's own that matched a call.
        beside: calls that stand beside their readers, whatever part these are in.
    """

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
    graph, network, called = traced.graph, traced.network, called_layers(traced.graph)
    _drop_identity_layers(graph, network)
    make_out_of_place(graph, network)
    cut_history(graph, network)
    keep_autocast(graph, network)
    graph.eliminate_dead_code(is_impure_node=is_impure)
    ruled = _rules_of_calls(graph, network, rules)
    ids = {id(rule) for rule in ruled.values()}
    matched = tuple(rule for rule in rules.own if id(rule) in ids)
    _drop_identities(traced, rules, _stateful(graph, network, ruled))
    ruled = _rules_of_calls(graph, network, rules)
    _read_batch_at_its_source(graph, _read_all(graph, traced, ruled, matched))
    stateful = _stateful(graph, network, ruled)
    beside = stand_beside_readers(graph, network, stateful)
    graph.eliminate_dead_code(is_impure_node=is_impure)
    live = set(graph.nodes)
    overwritten = overwritten_tensors(graph, network, stateful)
    readings = {
        n: _unless_overwritten(r, n in overwritten) for n, r in _read_all(graph, traced, ruled, matched).items()
    }
    return Canonical(
        traced,
        graph,
        readings,
        {n: r for n, r in ruled.items() if n in live},
        origins_of(graph, network),
        _in_order(overwritten, drawing_calls(graph, network)),
        called,
        matched,
        beside,
    )


def _in_order(
    overwritten: Mapping[fx.Node, frozenset[str]], drawing: Iterable[fx.Node]
) -> Mapping[fx.Node, frozenset[str]]:
    """What calls keep their order for, random numbers too."""
    return {**overwritten, **{n: overwritten.get(n, frozenset()) | {RANDOM} for n in drawing}}


def _rules_of_calls(graph: fx.Graph, network: nn.Module, rules: Rules) -> dict[fx.Node, Rule]:
    return {n: rule for n in graph.nodes if (rule := rules.find(n, module_of(n, network))) is not None}


def _stateful(graph: fx.Graph, network: nn.Module, ruled: Mapping[fx.Node, Rule]) -> frozenset[str]:
    """The paths of modules of the user's own that are called as a whole, and may keep a state between calls."""
    called = [(str(n.target), m) for n in graph.nodes if n not in ruled and (m := module_of(n, network)) is not None]
    return frozenset(path for path, m in called if type(m).__module__.split(".")[0] != "torch" or is_hooked(m))


def _unless_overwritten(reading: Reading | Refusal, is_overwritten: bool) -> Reading | Refusal:
    """A block reads its weights when it runs, which may be after a later call of the model has changed them."""
    if is_overwritten and isinstance(reading, Reading):
        return Refusal("it reads a buffer that the model overwrites as it runs")
    return reading


# --- identities -------------------------------------------------------------------------------------------


def _drop_identity_layers(graph: fx.Graph, network: nn.Module) -> None:
    """Before what is in place: an identity's result is its operand, and is overwritten with it."""
    for node in list(graph.nodes):
        operand = next(iter((*node.args, *node.kwargs.values())), None)
        module = module_of(node, network)
        if isinstance(module, nn.Identity) and not is_hooked(module) and isinstance(operand, fx.Node):
            node.replace_all_uses_with(operand)
            graph.erase_node(node)


def _drop_identities(traced: Traced, rules: Rules, stateful: Collection[str]) -> None:
    graph, network = traced.graph, traced.network
    overwritten = overwritten_tensors(graph, network, stateful)  # a copy of what is overwritten later is what it was
    for node in list(graph.nodes):
        module = module_of(node, network)
        rule = rules.find(node, module)
        if rule is None or rule.role is not Role.IDENTITY or _has_hooks(module) or node in overwritten:
            continue
        reading = rule.read(_call(node, network, rule))
        if isinstance(reading, Reading) and isinstance(reading.operands[0], fx.Node):
            node.replace_all_uses_with(reading.operands[0])
            graph.erase_node(node)


def _has_hooks(module: nn.Module | None) -> bool:
    return module is not None and is_hooked(module)


# --- readings ---------------------------------------------------------------------------------------------


def _call(node: fx.Node, network: nn.Module, rule: Rule) -> Call:
    module = module_of(node, network)
    signature = rule.signature if module is None else argument_names(type(module).forward)[1:]
    arguments = {**dict(zip(signature, node.args, strict=False)), **node.kwargs}
    if module is not None and signature and signature[0] in arguments:
        arguments.setdefault("input", arguments[signature[0]])
    for other in ("x", "self"):
        if other in arguments and "input" not in arguments:
            arguments["input"] = arguments.pop(other)

    def weight_of(operand: fx.Node) -> Weight | None:
        path = str(operand.target)
        is_weight = operand.op == "get_attr" and isinstance(value_at(network, path), Tensor)
        return Weight(path) if is_weight else None

    return Call(node, module, str(node.target) if node.op == "call_module" else None, arguments, weight_of)


def _read_all(
    graph: fx.Graph, traced: Traced, ruled: Mapping[fx.Node, Rule], own: Sequence[Rule]
) -> dict[fx.Node, Reading | Refusal]:
    readings = {n: _read(n, traced, ruled.get(n)) for n in graph.nodes if n.op.startswith("call")}
    ids = {id(rule) for rule in own}
    return {n: _of_own_rule(n, r, ruled[n]) if id(ruled.get(n)) in ids else r for n, r in readings.items()}


def _of_own_rule(node: fx.Node, reading: Reading | Refusal, rule: Rule) -> Reading | Refusal:
    """A rule of the user's reads every value that its call is given: what it leaves out would be lost."""
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
    if _has_hooks(module_of(node, network)):
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
    """For each value the earliest one of the same batch size; a sum of two batches may be a broadcast."""
    sources: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        reading = readings.get(node)
        read = _same_batch(reading) if isinstance(reading, Reading) else []
        batches = {sources[o] for o in read if isinstance(o, fx.Node)}
        first = isinstance(next(iter(read), None), fx.Node)
        sources[node] = batches.pop() if first and len(batches) == 1 else node
    return sources


def _same_batch(reading: Reading) -> list[fx.Node | Weight | None]:
    """What a call reads that has the batch of its result."""
    if reading.batch_size is not None:
        return [_batch_size_of(reading.batch_size)]
    return [o for o in reading.operands if o not in reading.given] if reading.keeps_batch else []


def _batch_size_of(node: fx.Node) -> fx.Node | None:
    """The tensor whose dimension 0 this node reads."""
    if node.args[1:] != (0,):
        return None
    tensor = node.args[0]
    if node.target is operator.getitem and is_shape(tensor):
        assert isinstance(tensor, fx.Node)
        tensor = tensor.args[0]
    elif not (node.op == "call_method" and node.target == "size") and node.target is not aten.sym_size.int:
        return None
    return tensor if isinstance(tensor, fx.Node) else None
