"""The whole ff-EBM as the bytes of one ONNX file: traced, translated, named, checked, and loaded by onnxruntime once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import ModelProto

from ..errors import OptionError, Problem
from .check import session
from .graph import to_onnx, with_data, with_initializers
from .names import give_names
from .shapes import Shapes, shapes_of
from .trace import Marks
from .whole import Model, Whole, trace_whole


def export_whole(model: Model, values: Mapping[str, Any], diagnostics: bool) -> bytes:
    """The file's content.

    Args:
        values: every value of the program on the example.
        diagnostics: whether sweeps and residual of each block are outputs too.
    """
    whole = _traced(model, shapes_of(model.program, model.network, values), diagnostics)
    proto = _named(model, whole)
    onnx.checker.check_model(proto, full_check=True)
    session(proto)
    return proto.SerializeToString(deterministic=True)


def _traced(model: Model, shapes: Shapes, diagnostics: bool) -> Whole:
    for space, found in shapes.spaces():
        whole = trace_whole(model, space, found, diagnostics, Marks())
        if space.is_general:
            return whole
    raise AssertionError


def _named(model: Model, whole: Whole) -> ModelProto:
    ports = (*whole.inputs, *whole.tensors)
    proto = give_names(to_onnx(whole.module), model.name, ports, whole.outputs, "")
    paths = [p.value for p in whole.tensors]
    return with_data(with_initializers(proto, paths), {p: t for p, t in model.tensors.items() if p in paths})
