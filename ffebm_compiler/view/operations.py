"""The user's operations, read back from a compiled program: one record for each, whichever side it is on.

An energy block holds states and the terms of their drives; a digital part holds an fx graph. Both say which of the
user's operations they came from, so the graph, the report and the drawings need one list only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from torch import Tensor, fx, nn

from ..ir import DigitalBlock, EnergyBlock, Origin, Program, State, Step, Term, Weight


@dataclass(frozen=True)
class UserOperation:
    """One operation of the user's model, where the compiler put it.

    Attributes:
        key: the name of the value it computes, unique in the program.
        origin: the user's name for it.
        block: the name of its block or digital part.
        analog: whether it is in an energy-based block.
        role: ``"state"``, ``"coupling"`` or ``"feedforward"``.
        operation: what it computes: ``"conv2d"``, ``"relu"``; the user's class or function where it is digital.
        reads: keys of the values it reads, each with whether feedback runs back along that edge.
        tensors: paths of the parameters and buffers that it reads.
        potential: the potential's name, for states.
        weighted: counts towards a block's size.
        held_norm: a batch norm inside a block, whose running statistics are held.
        reason: why it is digital.
    """

    key: str
    origin: Origin
    block: str
    analog: bool
    role: str
    operation: str
    reads: Mapping[str, bool]
    tensors: tuple[str, ...] = ()
    potential: str | None = None
    weighted: bool = False
    held_norm: bool = False
    reason: str = ""


def operations(program: Program, network: nn.Module) -> tuple[UserOperation, ...]:
    """All operations in order of execution."""
    return tuple(op for step in program for op in step_operations(step, network))


def step_operations(step: Step, network: nn.Module) -> tuple[UserOperation, ...]:
    """The operations of one block or digital part."""
    parts = _analog(step) if isinstance(step, EnergyBlock) else _digital(step, network)
    merged: dict[str, UserOperation] = {}
    for op in parts:
        merged[op.key] = _merged(merged[op.key], op) if op.key in merged else op
    return tuple(merged.values())


def _merged(first: UserOperation, again: UserOperation) -> UserOperation:
    """One operation that stands in several drives, or is both a term and a state: the fields of either."""
    reads = {k: first.reads.get(k, False) or again.reads.get(k, False) for k in (*first.reads, *again.reads)}
    role = "state" if "state" in (first.role, again.role) else first.role
    return replace(first, role=role, reads=reads, potential=first.potential or again.potential)


# --- energy blocks ----------------------------------------------------------------------------------------


def _analog(block: EnergyBlock) -> Iterator[UserOperation]:
    held = {o.label for o in block.held_norms}
    for state in block.states:
        moving = set(state.drive.sources)  # values that change while the block relaxes: feedback returns along them
        for term in state.drive.terms:
            reads = {o: o in moving for o in term.operands if isinstance(o, str)}
            if any(reads.values()):
                moving.add(term.name)
            yield _term(term, reads, block, term.origin.label in held)
        yield _state(state, block, state.drive.output in moving)


def _term(term: Term, reads: Mapping[str, bool], block: EnergyBlock, held: bool) -> UserOperation:
    return UserOperation(
        key=_key(term.name), origin=term.origin, block=block.name, analog=True, role="coupling",
        operation=term.operation.name, reads={_key(k): v for k, v in reads.items()},
        tensors=tuple(o.path for o in term.operands if isinstance(o, Weight)),
        weighted=term.operation.weighted, held_norm=held,
    )  # fmt: skip


def _state(state: State, block: EnergyBlock, fed_back: bool) -> UserOperation:
    drive = _key(state.drive.output)
    reads = {} if drive == state.name else {drive: fed_back}
    potential = state.potential.name
    return UserOperation(state.name, state.origin, block.name, True, "state", potential, reads, potential=potential)


def _key(name: str) -> str:
    """A term computes the value of the node it came from."""
    return name.removesuffix(".drive")


# --- digital parts ----------------------------------------------------------------------------------------


def _digital(block: DigitalBlock, network: nn.Module) -> Iterator[UserOperation]:
    keys = _digital_keys(block)
    origins = iter(block.origins)
    for node in block.graph.nodes:
        if not node.op.startswith("call"):
            continue
        origin = next(origins)
        yield UserOperation(
            key=keys[node], origin=origin, block=block.name, analog=False, role="feedforward", operation=origin.kind,
            reads={keys[i]: False for i in node.all_input_nodes if i in keys}, tensors=_tensors(node, network),
            reason=block.reasons.get(origin.label, ""),
        )  # fmt: skip


def _digital_keys(block: DigitalBlock) -> dict[fx.Node, str]:
    """The value that each node stands for; what stays inside the part gets the part's name before it."""
    keys: dict[fx.Node, str] = {}
    for node in block.graph.nodes:
        if node.op == "placeholder":
            keys[node] = str(node.target)
        elif node.op == "output":
            keys.update(zip(node.args[0], block.outputs, strict=True))
        elif node.op.startswith("call"):
            keys[node] = f"{block.name}/{node.name}"
    return keys


def _tensors(node: fx.Node, network: nn.Module) -> tuple[str, ...]:
    own = [str(i.target) for i in node.all_input_nodes if i.op == "get_attr"]
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        own += [f"{node.target}.{name}".lstrip(".") for name, _ in named]
    return tuple(own)


# --- the model's tensors ----------------------------------------------------------------------------------


def tensor_at(network: nn.Module, path: str) -> Any:
    """The value at an attribute path."""
    return reduce(getattr, path.split("."), network)


def parameters_behind(network: nn.Module, path: str) -> tuple[nn.Parameter, ...]:
    """The parameters behind a read tensor: itself, the originals of a parametrized weight, none for a buffer."""
    value = tensor_at(network, path)
    if isinstance(value, nn.Parameter):
        return (value,)
    owner, _, name = path.rpartition(".")
    parametrizations = getattr(network.get_submodule(owner), "parametrizations", None)
    if isinstance(value, Tensor) and parametrizations is not None and name in parametrizations:
        return tuple(parametrizations[name].parameters())
    return ()
