"""Digital parts of a program as ONNX graphs: ``F``, ``F`` with its statistics, and its vector-Jacobian product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from onnx import ModelProto
from torch import nn

from ..ir import Program
from .digital_part import Part, parts_of
from .graph import in_order, to_onnx, with_initializers, without_initializers
from .interface import FORWARD, TRAINING, VJP, ExportedPart, Interface, PartGraph, Unexportable
from .names import give_names
from .part_trace import Call, Traced
from .refusal import (
    UNFORESEEN,
    RefusedError,
    line_of,
    refuse_control_flow,
    refuse_draws,
    unconverted,
    unloadable,
    untraceable,
)
from .session import session
from .shapes import Shape, Shapes, Space, shapes_of
from .trace import Marks


def export_parts(
    program: Program,
    network: nn.Module,
    values: Mapping[str, Any],
    kinds: Sequence[str],
    tell: Callable[[str], None] = lambda what: None,
    stateful: Mapping[str, str] = MappingProxyType({}),
) -> tuple[ExportedPart, ...]:
    """Every digital part of a program as ONNX, and the part that computes weights where blocks read computed ones.

    A part through which no gradient can flow has no ``vjp`` graph, and no refusal of one.

    Args:
        program: of one mode.
        network: the model, in that mode.
        values: every value of the program on an example of two samples or more, by name.
        kinds: which graphs: ``"forward"`` of a program for evaluation, ``"training"`` and ``"vjp"`` for training.
        tell: called before each graph, with what it is: ``"digital1, vjp"``.
        stateful: by the path of a layer that keeps a state between calls, what it keeps: no graph does.
    """
    shapes = shapes_of(program, network, values)
    parts = [_Export(p, network, program, shapes, stateful) for p in parts_of(program, network)]
    return tuple(p.graphs(kinds, tell) for p in parts)


@dataclass(frozen=True)
class _Export:
    """One part on its way to ONNX."""

    part: Part
    network: nn.Module
    program: Program
    shapes: Shapes
    stateful: Mapping[str, str]

    @property
    def _called(self) -> str:
        """What is refused where nothing says which operation stands in the way: the part, or its one layer."""
        layers = [f"{o.label} ({o.kind})" for o in self.part.origins]
        return layers[0] if len(layers) == 1 else self.part.name

    def graphs(self, kinds: Sequence[str], tell: Callable[[str], None]) -> ExportedPart:
        found: dict[str, PartGraph] = {}
        refused: list[Unexportable] = []
        for kind in kinds:
            tell(f"{self.part.name}, {kind}")
            try:
                graph = self.graph(kind)
            except RefusedError as failure:
                refused.append(Unexportable(self.part.name, kind, failure.operation, failure.reason))
                continue
            if graph is not None:
                found[kind] = graph
        return ExportedPart(self.part.name, found, tuple(refused))

    def graph(self, kind: str) -> PartGraph | None:
        """The graph with sizes as symbols; failing that, for the example's sizes alone."""
        for origin in self.part.origins:
            if origin.layer in self.stateful:
                raise RefusedError(f"{origin.label} ({origin.kind})", self.stateful[origin.layer])
        unforeseen = self.shapes.unforeseen((*self.part.outputs, *self.part.inputs))
        if unforeseen is not None:
            raise RefusedError(line_of(self.program, unforeseen), UNFORESEEN)
        failures: list[RefusedError] = []
        for space, shapes in self.shapes.spaces():
            try:
                traced = self._traced(kind, space, shapes)
                found = self._finish(traced) if traced is not None and space.is_general else None
            except RefusedError as refusal:
                failures.append(refusal)
                continue
            if space.is_general:
                return found
        raise failures[0]

    def _traced(self, kind: str, space: Space, shapes: Mapping[str, Shape]) -> Traced | None:
        marks = Marks()
        try:
            call = Call(self.part, self.network, self.program, space, shapes, marks)
            traced = call.vjp() if kind == VJP else call.forward(kind)
        except Exception as failure:  # whatever a user's layer and torch's tracer make of tensors without numbers
            raise untraceable(failure, marks.running, self._called) from failure
        return traced if traced is not None and traced.interface.results else None

    def _finish(self, traced: Traced) -> PartGraph:
        interface = traced.interface
        held = [p.name for p in interface.initializers]
        ports = (*interface.inputs, *interface.initializers)
        try:
            raw = to_onnx(traced.module)
        except Exception as failure:  # torch's exporter raises what it likes
            raise unconverted(failure, traced.module, self.part.origins, self._called) from failure
        given = {p.name: p for p in ports}
        doc = _describe(self.part, interface)
        model = give_names(raw, self.part.name, [given[n] for n in traced.given], interface.results, doc)
        model = with_initializers(in_order(model, [p.name for p in ports]), held)
        self._try(model, held)
        return PartGraph(interface, model)

    def _try(self, model: ModelProto, held: Sequence[str]) -> None:
        origins, name = self.part.origins, self._called
        refuse_draws(model, origins, name)
        refuse_control_flow(model, origins, name)
        try:
            session(without_initializers(model, held))
        except Exception as failure:  # onnxruntime's exceptions have no common base
            raise unloadable(failure, origins, name) from failure


_SAYS = {
    FORWARD: "y = F(x) in evaluation mode.",
    TRAINING: "y = F(x) in training mode.",
    VJP: "Given 'error/<output>' = dL/dy, gives 'gradient/<input or parameter>' = dL/dx and dL/dtheta, "
    "summed over the batch, no sign changed. The forward pass is recomputed inside.",
}
_STATISTICS = " 'updated/<path>' are the model's buffers after the step."
_RANDOM = (
    " 'random/<k>' are uniform numbers in [0, 1), the same for the training and the vjp graph of a step; dropout keeps "
    "where the number is at least p."
)


def _describe(part: Part, interface: Interface) -> str:
    layers = ", ".join(f"{o.label} ({o.kind})" for o in part.origins) or "no operation"
    notes = (_STATISTICS if interface.statistics else "") + (_RANDOM if interface.random else "")
    return f"{part.name}: {layers}. {_SAYS[interface.kind]}{notes}"
