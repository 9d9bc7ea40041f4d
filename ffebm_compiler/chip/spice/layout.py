"""The names of a circuit's nodes and parts: ``s_features_1_12`` is the output of neuron 12 of ``features.1``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..hardware.circuit import Circuit
from .netlist import legal_names

Nodes = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What each part of a circuit is called in its netlist.

    Attributes:
        banks: legal name of each bank, by its name in the circuit.
        inputs: legal name of each input.
        edges: legal name of each edge, in the circuit's order.
        outputs: nodes of each bank's states and of each input's values.
        potentials: Hopfield's nodes ``u`` of each bank.
    """

    banks: Mapping[str, str]
    inputs: Mapping[str, str]
    edges: Nodes
    outputs: Mapping[str, Nodes]
    potentials: Mapping[str, Nodes]


def lay_out(circuit: Circuit) -> Layout:
    sizes = {b.name: b.drive.numel() for b in circuit.banks}
    banks = _names({b.name: b.label for b in circuit.banks})
    inputs = _names({name: circuit.input_labels.get(name, name) for name in circuit.inputs})
    edges = _names({str(k): e.label for k, e in enumerate(circuit.edges)})
    states = {name: _nodes("s", banks[name], n) for name, n in sizes.items()}
    values = {name: _nodes("x", inputs[name], x.numel()) for name, x in circuit.inputs.items()}
    potentials = {name: _nodes("u", banks[name], n) for name, n in sizes.items()}
    return Layout(banks, inputs, tuple(edges.values()), {**values, **states}, potentials)


def _names(labels: Mapping[str, str]) -> dict[str, str]:
    """By key, unique even where two keys have one label: the key then tells them apart."""
    several = {label for label in labels.values() if list(labels.values()).count(label) > 1}
    told_apart = {key: f"{label} {key}" if label in several else label for key, label in labels.items()}
    legal = legal_names(told_apart.values())
    return {key: legal[label] for key, label in told_apart.items()}


def _nodes(prefix: str, name: str, count: int) -> Nodes:
    return tuple(f"{prefix}_{name}_{i}" for i in range(count))
