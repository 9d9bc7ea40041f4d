"""Pass 5, derive: each analog group becomes an :class:`EnergyBlock`, each digital one a graph of its own.

States are the outputs of the activations, the pre-activations of smooth activations, and whatever else is read
outside the block; the drive of a state is the piece of the traced graph between it and the states before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from ..ir import (
    IDENTITY,
    Coupling,
    DigitalBlock,
    EnergyBlock,
    Operand,
    Origin,
    Program,
    Ref,
    State,
    Step,
    Term,
    Weight,
)  # fmt: skip
from ..rules import Role
from .partition import Partitioned


def derive(partitioned: Partitioned) -> Program:
    """The program: blocks in order of execution."""
    canonical = partitioned.legal.canonical
    graph, origins = canonical.graph, canonical.origins
    steps: list[Step] = []
    count = {True: 0, False: 0}
    for analog, nodes in partitioned.groups:
        count[analog] += 1
        if analog:
            steps.append(_energy_block(f"block{count[True]}", nodes, partitioned))
        else:
            steps.append(_digital_block(f"digital{count[False]}", nodes, partitioned))
    output = next(n for n in graph.nodes if n.op == "output")
    return Program(
        inputs=canonical.traced.signature.inputs,
        steps=tuple(steps),
        output=fx.node.map_arg(output.args[0], _reference),
        labels={n.name: origins[n].label for n in graph.nodes if n in origins},
        origins={n.name: origins[n] for n in graph.nodes if n in origins},
    )


def _reference(node: fx.Node) -> Any:
    return Weight(str(node.target)) if node.op == "get_attr" else Ref(node.name)


def _read_outside(node: fx.Node, inside: set[fx.Node]) -> bool:
    return any(u not in inside for u in node.users)


# --- energy-based blocks ---------------------------------------------------------------------------------


def _energy_block(name: str, nodes: tuple[fx.Node, ...], partitioned: Partitioned) -> EnergyBlock:
    inside = set(nodes)
    origins = partitioned.legal.canonical.origins
    read = _inner_states(nodes, partitioned)
    written = [n for n in nodes if n in read or _read_outside(n, inside)]
    states = tuple(_state(n, inside, read, partitioned) for n in written)
    return EnergyBlock(
        name=name,
        states=states,
        inputs=tuple(dict.fromkeys(i for s in states for i in s.drive.inputs)),
        outputs=tuple(n.name for n in written if _read_outside(n, inside)),
        held_norms=tuple(origins[n] for n in nodes if _is_norm(n, partitioned)),
    )


def _is_norm(node: fx.Node, partitioned: Partitioned) -> bool:
    rule = partitioned.legal.canonical.rules.get(node)
    return rule is not None and rule.role is Role.NORM


def _inner_states(nodes: tuple[fx.Node, ...], partitioned: Partitioned) -> set[fx.Node]:
    """The states that later drives read: activations, and pre-activations of smooth ones."""
    inside = set(nodes)
    states: set[fx.Node] = set()

    def heavy(node: fx.Node) -> bool:
        if node not in inside or node in states:
            return False
        return partitioned.readings[node].weighted or any(heavy(i) for i in node.all_input_nodes)

    for node in nodes:
        if partitioned.roles[node] is Role.POTENTIAL:
            states.add(node)
        elif partitioned.roles[node] is Role.SMOOTH:
            before = partitioned.readings[node].operands[0]
            if isinstance(before, fx.Node) and heavy(before):
                states.add(before)
    return states


def _state(node: fx.Node, inside: set[fx.Node], states: set[fx.Node], partitioned: Partitioned) -> State:
    origin = partitioned.legal.canonical.origins[node]
    if partitioned.roles[node] is Role.POTENTIAL:
        reading = partitioned.readings[node]
        (before,) = reading.operands
        assert reading.potential is not None
        assert before is not None
        return State(node.name, reading.potential, _drive(before, inside, states, partitioned), origin)
    return State(node.name, IDENTITY, _drive(node, inside, states - {node}, partitioned), origin)


def _drive(root: fx.Node | Weight, inside: set[fx.Node], states: set[fx.Node], partitioned: Partitioned) -> Coupling:
    """The terms between ``root`` and the states and inputs that it depends on."""
    assert isinstance(root, fx.Node)
    origins = partitioned.legal.canonical.origins
    terms: dict[fx.Node, Term] = {}
    sources: dict[str, None] = {}
    inputs: dict[str, None] = {}
    weights: dict[str, None] = {}

    def visit(operand: fx.Node | Weight | None) -> Operand:
        if isinstance(operand, Weight):
            weights[operand.path] = None
            return operand
        if operand is None:
            return None
        if operand in states or operand not in inside:
            (sources if operand in states else inputs)[operand.name] = None
            return operand.name
        if operand not in terms:
            reading = partitioned.readings[operand]
            assert reading.operation is not None
            operands = tuple(visit(o) for o in reading.operands)
            terms[operand] = Term(_drive_name(operand), reading.operation, operands, origins[operand])
        return terms[operand].name

    output = visit(root)
    assert isinstance(output, str)
    return Coupling(tuple(terms.values()), output, tuple(sources), tuple(inputs), tuple(weights))


def _drive_name(node: fx.Node) -> str:
    """A term's name, never that of a state, which may be the same node's."""
    return f"{node.name}.drive"


# --- digital blocks --------------------------------------------------------------------------------------


def _digital_block(name: str, nodes: tuple[fx.Node, ...], partitioned: Partitioned) -> DigitalBlock:
    origins: dict[fx.Node, Origin] = dict(partitioned.legal.canonical.origins)
    inside = set(nodes)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    inputs = tuple(dict.fromkeys(i for n in nodes for i in n.all_input_nodes if i not in inside and i.op != "get_attr"))
    for node in inputs:
        copies[node] = graph.placeholder(node.name)

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            assert node.op == "get_attr"
            copies[node] = graph.node_copy(node, lambda n: n)
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, _copier(copied))
    outputs = tuple(n for n in nodes if _read_outside(n, inside))
    graph.output(tuple(copies[n] for n in outputs))
    reasons = {origins[n].label: partitioned.reasons.get(n, "") for n in nodes}
    return DigitalBlock(
        name,
        graph,
        tuple(n.name for n in inputs),
        tuple(n.name for n in outputs),
        tuple(origins[n] for n in nodes),
        reasons,
    )


def _copier(copied: Callable[[fx.Node], fx.Node]) -> Callable[[fx.Node], fx.Node]:
    return lambda node: copied(node)
