"""Whether a digital part's graph is what its interface says, by onnx's own checker; what it gives in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from ffebm_compiler.errors import OptionError, Problem
from ffebm_compiler.onnx import PartGraph, Port
from ffebm_compiler.onnx.graph import with_data, without_initializers
from ffebm_compiler.onnx.session import session


def check_graph(graph: PartGraph) -> None:
    """onnx's checker with full shape inference; every port that is declared is there, with its type and shape.

    Raises:
        OptionError: with everything that is wrong: a mistake of the exporter's.
    """
    interface = graph.interface
    model = without_initializers(graph.model, [p.name for p in interface.initializers])
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as failure:
        what = str(failure).strip().splitlines()[0]
        raise OptionError(
            Problem(f"graph {model.graph.name}", what, "Report this model: the graph is not valid.")
        ) from failure
    problems = [
        *_differences("input", (*interface.inputs, *interface.initializers), inferred.graph.input),
        *_differences("output", interface.results, inferred.graph.output),
    ]
    if problems:
        remedy = "Report this model: the graph and what is said of it disagree."
        raise OptionError([Problem(f"graph {model.graph.name}", what, remedy) for what in problems])


def _differences(what: str, ports: tuple[Port, ...], declared: Any) -> list[str]:
    found = {v.name: _described(v) for v in declared}
    wanted = {p.name: (p.dtype, p.shape) for p in ports}
    unlike = [n for n in sorted(found.keys() | wanted) if found.get(n) != wanted.get(n)]
    names = [f"{what} {n} is {found.get(n, 'missing')}, not {wanted.get(n, 'declared')}" for n in unlike]
    return names or ([f"{what}s are in another order"] if list(found) != list(wanted) else [])


def _described(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return dtype, tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)


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
