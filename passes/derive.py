"""Pass 5, derive: each analog group becomes an :class:`EnergyBlock`, each digital one a graph of its own.

States are the outputs of the activations, the pre-activations of smooth activations, and whatever else is read
outside the block; the drive of a state is the piece of the traced graph between it and the states before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import fx

from ..ir import IDENTITY, Coupling, DigitalBlock, EnergyBlock, Program, Ref, State, Step, Term, Weight
from ..rules import Reading, Role
from .graph.in_place import keep_type_and_shape
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
    canonical = partitioned.legal.canonical
    norms = [n for n in nodes if n in canonical.rules and canonical.rules[n].role is Role.NORM]
    read = _inner_states(nodes, partitioned)
    written = [n for n in nodes if n in read or _read_outside(n, inside)]
    states = tuple(_state(n, inside, read, partitioned) for n in written)
    return EnergyBlock(
        name=name,
        states=states,
        inputs=tuple(dict.fromkeys(i for s in states for i in s.drive.inputs)),
        outputs=tuple(n.name for n in written if _read_outside(n, inside)),
        held_norms=tuple(canonical.origins[n] for n in norms),
    )


def _inner_states(nodes: tuple[fx.Node, ...], partitioned: Partitioned) -> set[fx.Node]:
    """The states that later drives read: activations, and pre-activations of smooth ones."""
    inside = set(nodes)
    states: set[fx.Node] = set()
    light: set[fx.Node] = set()  # no weighted call since the last states; more states leave it so

    def heavy(root: fx.Node) -> bool:
        pending, met = [root], set[fx.Node]()
        while pending:
            node = pending.pop()
            if node in met or node in light or node not in inside or node in states:
                continue
            if partitioned.readings[node].weighted:
                return True
            met.add(node)
            pending += node.all_input_nodes
        light.update(met)
        return False

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
        assert isinstance(before, fx.Node)
        return State(node.name, reading.potential, _drive(before, None, inside, states, partitioned), origin)
    return State(node.name, IDENTITY, _drive(node, node, inside, states, partitioned), origin)


def _drive(
    root: fx.Node, own: fx.Node | None, inside: set[fx.Node], states: set[fx.Node], partitioned: Partitioned
) -> Coupling:
    """The terms between ``root`` and the states and inputs that it depends on; ``own`` is the state driven."""
    origins = partitioned.legal.canonical.origins
    names: dict[fx.Node, str] = {}
    terms: list[Term] = []
    sources: dict[str, None] = {}
    inputs: dict[str, None] = {}
    weights: dict[str, None] = {}

    def is_term(node: fx.Node) -> bool:
        return node in inside and (node is own or node not in states)

    for node in _operands_first(root, is_term, partitioned.readings):
        if isinstance(node, Weight):
            weights[node.path] = None
        elif not is_term(node):
            names[node] = node.name
            (sources if node in states else inputs)[node.name] = None
        else:
            reading, names[node] = partitioned.readings[node], f"{node.name}.drive"  # never that of a state
            assert reading.operation is not None
            operands = tuple(names[o] if isinstance(o, fx.Node) else o for o in reading.operands)
            terms.append(Term(names[node], reading.operation, operands, origins[node]))
    return Coupling(tuple(terms), names[root], tuple(sources), tuple(inputs), tuple(weights))


def _operands_first(
    root: fx.Node, is_term: Callable[[fx.Node], bool], readings: Mapping[fx.Node, Reading]
) -> Iterator[fx.Node | Weight]:
    """What ``root`` depends on, each term once and after its operands. Not recursive: drives are long."""
    pending: list[tuple[fx.Node | Weight, bool]] = [(root, False)]
    met: set[fx.Node | Weight] = set()
    while pending:
        value, done = pending.pop()
        if done or isinstance(value, Weight) or not is_term(value):
            yield value
        elif value not in met:
            met.add(value)
            pending.append((value, True))
            pending += [(o, False) for o in reversed(readings[value].operands) if o is not None]


# --- digital blocks --------------------------------------------------------------------------------------


def _digital_block(name: str, nodes: tuple[fx.Node, ...], partitioned: Partitioned) -> DigitalBlock:
    origins = partitioned.legal.canonical.origins
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
        copies[node] = graph.node_copy(node, copied)
        keep_type_and_shape(copies[node])
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
