"""The whole ff-EBM as the bytes of one ONNX file: traced, translated, named, checked, and loaded once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import ModelProto

from ..errors import OptionError
from ..ir import EnergyBlock
from .graph import to_onnx, with_data, with_initializers
from .interface import port_of
from .loop_names import name_loops
from .model import Model
from .names import give_names, graphs_of
from .refusal import UNFORESEEN, RefusedError, line_of, refuse_draws, unconverted, unloadable, untraceable
from .session import session
from .shapes import Shape, Shapes, Space, shapes_of
from .trace import Marks
from .whole_trace import Whole, trace_whole

logger = logging.getLogger(__name__)

LIMIT = 2**31 - 2**20
"""Bytes of weights that one file can hold, beside the graph: protobuf ends at two GiB."""


def export_whole(model: Model, values: Mapping[str, Any], diagnostics: bool) -> bytes:
    """The file's content.

    Args:
        values: every value of the program on the example, by name.
        diagnostics: whether sweeps and residual of each block are outputs too.

    Raises:
        OptionError: an operation has no form in ONNX or in onnxruntime, or the weights are too many.
    """
    _check_size(model)
    try:
        proto = _translated(model, _traced(model, shapes_of(model.program, model.network, values), diagnostics))
    except RefusedError as refusal:
        where = refusal.operation if refusal.operation == model.name else f"layer {refusal.operation}"
        raise OptionError.at(where, f"can't be part of an ONNX file: {refusal.reason}", REMEDY) from refusal
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


REMEDY = (
    "Replace this operation by ones that ONNX has, or write a bundle with model.compile_to(..., unexportable='skip')."
)


def _check_size(model: Model) -> None:
    size = sum(t.numel() * t.element_size() for t in model.tensors.values())
    if size > LIMIT:
        what = f"has {size / 2**30:.1f} GiB of weights, and one ONNX file holds two"
        remedy = "Write a bundle with model.compile_to: its weights are in a file of their own."
        raise OptionError.at(f"model {model.name}", what, remedy)


def _traced(model: Model, shapes: Shapes, diagnostics: bool) -> Whole:
    """With sizes as symbols; failing that, for the example's sizes alone."""
    unforeseen = shapes.unforeseen(n for step in model.program for n in step.outputs)
    if unforeseen is not None:
        raise RefusedError(line_of(model.program, unforeseen), UNFORESEEN)
    failure: RefusedError | None = None
    for space, found in shapes.spaces():
        try:
            whole = _attempt(model, space, found, diagnostics)
        except RefusedError as refusal:
            failure = failure or refusal
            continue
        if space.is_general:
            _tell_fixed(model, whole, failure)
            return whole
    if failure is None:
        raise AssertionError("an attempt on the example's own sizes can't restrict them")
    raise failure


def _tell_fixed(model: Model, whole: Whole, failure: RefusedError | None) -> None:
    if not any(isinstance(s, str) for p in whole.inputs for s in p.shape):
        why = f" ({failure})" if failure else ""
        logger.warning("the ONNX file of %s takes batches of the example's size only%s", model.name, why)


def _attempt(model: Model, space: Space, shapes: Mapping[str, Shape], diagnostics: bool) -> Whole:
    marks = Marks()
    try:
        return trace_whole(model, space, shapes, diagnostics, marks)
    except RefusedError:
        raise
    except Exception as failure:  # whatever a user's layer and torch's tracer make of tensors without numbers
        raise untraceable(failure, marks.running, model.name) from failure


def _translated(model: Model, whole: Whole) -> ModelProto:
    """Under the user's names, with the weights, and sure to load."""
    origins = tuple(model.origins)
    try:
        raw = to_onnx(whole.module)
    except Exception as failure:  # torch's exporter raises what it likes
        raise unconverted(failure, whole.module, origins, model.name) from failure
    ports = [port_of(n, n, t.dtype, t.shape) for n, t in whole.tensors.items()]
    raw = name_loops(raw, model)
    named = give_names(raw, model.name, (*whole.inputs, *ports), whole.outputs, _describe(model))
    proto = with_data(with_initializers(named, list(whole.tensors)), whole.tensors)
    _drop_unused(proto)
    refuse_draws(proto, origins, model.name)
    try:
        onnx.checker.check_model(proto, full_check=True)
        session(proto)
    except Exception as failure:  # onnxruntime's exceptions have no common base
        raise unloadable(failure, origins, model.name) from failure
    return proto


def _drop_unused(proto: ModelProto) -> None:
    """Constants that no node reads any more, of which onnxruntime would warn."""
    read = {n for g in graphs_of(proto.graph) for node in g.node for n in node.input}
    read |= {v.name for g in graphs_of(proto.graph) for v in g.output}
    kept = [t for t in proto.graph.initializer if t.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def _describe(model: Model) -> str:
    """What the file computes, a line for each step."""
    lines = [f"{model.name} as a feedforward-tied energy-based model, in evaluation mode."]
    for step in model.program:
        if isinstance(step, EnergyBlock):
            how = "relaxes in a Loop" if step.has_feedback else "energy-based without feedback"
            layers = ", ".join(f"{t.origin.label} ({t.origin.kind})" for t in step.layers)
            lines.append(f"{step.name}, {how}: {layers}.")
        else:
            lines.append(f"{step.name}, digital: {', '.join(f'{o.label} ({o.kind})' for o in step.origins)}.")
    stop = model.tolerance
    residual = "by the type's precision" if stop.residual is None else f"{stop.residual:g}"
    lines.append(f"A relaxation ends at a residual of {residual}, or after {stop.max_sweeps} sweeps.")
    return "\n".join(lines)
