"""Whether a graph is what its interface says: by onnx's own checker, and by onnxruntime loading and running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto
from torch import Tensor

from ..errors import OptionError, Problem
from .graph import with_data, without_initializers
from .interface import FORWARD, PartGraph, Port

FATAL_ONLY = 4
"""What fails is raised; onnxruntime need not print it too."""


def check_graph(graph: PartGraph) -> None:
    """onnx's checker with full shape inference; every port that is declared is there, with its type and shape.

    Raises:
        OptionError: with everything that is wrong: a mistake of the exporter's.
    """
    model = plain(graph)
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as failure:
        what = str(failure).strip().splitlines()[0]
        raise OptionError(
            Problem(f"graph {model.graph.name}", what, "Report this model: the graph is not valid.")
        ) from failure
    interface = graph.interface
    tensors = (*interface.parameters, *interface.buffers) if interface.kind == FORWARD else ()
    problems = [
        *_differences("input", (*interface.inputs, *tensors), inferred.graph.input),
        *_differences("output", interface.results, inferred.graph.output),
    ]
    if problems:
        remedy = "Report this model: the graph and what is said of it disagree."
        raise OptionError([Problem(f"graph {model.graph.name}", what, remedy) for what in problems])


def plain(graph: PartGraph) -> ModelProto:
    """The model with every tensor that it needs as an input."""
    interface = graph.interface
    if interface.kind != FORWARD:
        return graph.model
    return without_initializers(graph.model, [p.value for p in (*interface.parameters, *interface.buffers)])


def _differences(what: str, ports: tuple[Port, ...], declared: Any) -> list[str]:
    found = {v.name: _described(v) for v in declared}
    wanted = {p.name: (p.dtype, p.shape) for p in ports}
    names = [f"{what} {n} is {found.get(n, 'missing')}, not {wanted.get(n, 'declared')}" for n in sorted(found.keys() | wanted)
             if found.get(n) != wanted.get(n)]  # fmt: skip
    return names or ([f"{what}s are in another order"] if list(found) != list(wanted) else [])


def _described(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return dtype, tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    """onnxruntime, ready to run a model on one thread of the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(
    graph: PartGraph, inputs: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> dict[str, np.ndarray]:
    """Runs a graph in onnxruntime.

    Args:
        inputs: arrays, by the names of the ports.
        tensors: of the model, by path, for a ``forward`` graph.
    """
    ready = session(with_data(graph.model, tensors or {}))
    names = [p.name for p in graph.interface.results]
    return dict(zip(names, ready.run(names, dict(inputs)), strict=True))


__all__ = ["check_graph", "plain", "run", "session"]
