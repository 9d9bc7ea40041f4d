"""What a bundle holds, as data: two programs, their tensors, gains and graphs, and pages for people.

A digital part of a program here is one call of an ONNX graph: its ``DigitalBlock.graph`` is the placeholders, one
``call_module`` of :data:`PART_MODULE`, a ``getitem`` for each output, and the tuple of them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from ...ir import DigitalBlock, Origin, Program
from ...onnx import FORWARD, TRAINING, VJP, WEIGHTS, Interface, Unexportable
from ...solve import Gains

PART_MODULE = "onnx {name}"
"""The module of the runtime's network that runs a digital part."""

_SUFFIX = {FORWARD: "", TRAINING: ".training", VJP: ".vjp"}


def graph_file(part: str, kind: str) -> str:
    """The file of a part's graph in a bundle: ``digital1.onnx``, ``digital1.training.onnx``, ``digital1.vjp.onnx``."""
    return f"{part}{_SUFFIX[kind]}.onnx"


@dataclass(frozen=True)
class Mode:
    """The program of one mode of the model, training or evaluation.

    Attributes:
        program: its digital parts are calls of ONNX graphs.
        parts: the graphs' ports, by part (with ``WEIGHTS``, where weights are computed) and by kind.
        result: the model's result: containers with ``Ref`` and ``Weight`` leaves and plain constants.
        call: how a call hands over the program's inputs: the list of positional arguments and the dictionary of named
            ones, nests with ``Ref`` leaves; None where each input is an argument of its own name, in order.
        defaults: what an argument that a call may leave out is then, by the program's name of it.
        sizes: of inputs whose sizes the program depends on: numbers, and names of those that may change.
    """

    program: Program
    parts: Mapping[str, Mapping[str, Interface]]
    result: Any
    call: Any = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)

    @property
    def interfaces(self) -> Iterator[tuple[str, Interface]]:
        """The ports of every graph, with the name of its part."""
        yield from ((part, interface) for part, kinds in self.parts.items() for interface in kinds.values())

    @property
    def computed_weights(self) -> tuple[str, ...]:
        """The paths of weights that a part computes from others."""
        outputs = (p.value for i in self.parts.get(WEIGHTS, {}).values() for p in i.outputs)
        return tuple(dict.fromkeys(outputs))


@dataclass(frozen=True)
class Contents:
    """Everything in a bundle.

    Attributes:
        name: the class of the user's model.
        training: the mode that the model was in.
        modes: by ``training``; one object where both are the same.
        tensors: parameters, buffers and constants by the user's paths; a tied one once.
        parameters: paths, in the order of ``model.parameters()``.
        frozen: those that don't train.
        aliases: the other paths of tied tensors.
        hidden: paths that the model's state dict leaves out: constants of the trace, buffers that are not persistent.
        gains: as :meth:`GainStore.write` keys them: ``"state,state|0.01"``.
        execution: ``loop_gain``, ``tolerance``, ``max_sweeps`` and ``estimator`` (``name`` and ``options``).
        refused: the graphs that ONNX can't express.
        options: of the conversion and the compilation, plain values.
        samples: recorded inputs and results.
        graphs: the ONNX graphs by file, without their weights.
        files: everything else by file: pages, netlists, conductances.
    """

    name: str
    training: bool
    modes: Mapping[bool, Mode]
    tensors: Mapping[str, Tensor]
    parameters: tuple[str, ...]
    execution: Mapping[str, Any]
    frozen: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    gains: Mapping[str, Gains] = field(default_factory=dict)
    refused: tuple[Unexportable, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Tensor] = field(default_factory=dict)
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def named_modes(self) -> dict[str, Mode]:
        """The modes by name, one that is both once."""
        evaluation, training = self.modes[False], self.modes[True]
        return {"evaluation": evaluation, **({} if training is evaluation else {"training": training})}

    @property
    def interfaces(self) -> Iterator[tuple[str, Interface]]:
        """The ports of every graph of both modes, with the name of its part."""
        yield from (entry for mode in self.named_modes.values() for entry in mode.interfaces)


def part_block(
    name: str, inputs: Iterable[str], outputs: Iterable[str], origins: Iterable[Origin], reasons: Mapping[str, str]
) -> DigitalBlock:
    """The digital part of that name, as one call of its ONNX graph."""
    read, given = tuple(inputs), tuple(outputs)
    graph = fx.Graph()
    called = graph.call_module(PART_MODULE.format(name=name), tuple(graph.placeholder(n) for n in read))
    graph.output(tuple(graph.call_function(operator.getitem, (called, i)) for i in range(len(given))))
    return DigitalBlock(name, graph, read, given, tuple(origins), reasons)
