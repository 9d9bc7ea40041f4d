"""The size and type of every value of an ONNX graph, operator by operator, before a library takes the whole graph.

Inference over a whole graph allocates by what the graph says: a vector of 2^31 numbers, as a shape, is 2^31 dimensions.
Here no operator sees a value that is larger than any memory, and none a list of sizes that is longer than any shape.
Whole numbers are divided by positive constants only: by 0, or the least of them by -1, the processor ends the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from .limits import LARGEST_SHAPE_DATA, LARGEST_VALUE, MOST_DIMENSIONS

DIVISIONS = ("Div", "Mod")
FRACTIONAL = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def size_problems(model: ModelProto) -> Iterator[str]:
    """The first value larger than any memory, or operator that fits no schema or may end the process; in order."""
    version = model.opset_import[0].version
    types = {v.name: v.type for v in model.graph.input}
    types |= {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in model.graph.initializer}
    constants = {t.name: t for t in model.graph.initializer}
    for name, kind in types.items():
        if _is_too_large(kind):
            yield f"has {name[:100]}, which is larger than any memory"
            return
    for node in model.graph.node:
        try:
            found = _outputs(node, version, types, constants, model)
        except Exception as failure:  # the library raises errors of many kinds
            yield f"is not valid: {(str(failure).strip().splitlines() or ['?'])[0][:300]}"
            return
        for name, kind in found.items():
            if _is_too_large(kind):
                yield f"computes {name[:100]}, which is larger than any memory"
                return
        if node.op_type in DIVISIONS and not _is_safe_division(node, types, constants):
            yield f"divides whole numbers by {node.input[1][:100]}, which is no positive constant"
            return
        types |= found
        if node.op_type == "Constant":
            constants |= {name: a.t for name in node.output for a in node.attribute if a.name == "value"}


def _outputs(
    node: NodeProto, version: int, types: dict[str, TypeProto], constants: dict[str, TensorProto], model: ModelProto
) -> dict[str, TypeProto]:
    schema = onnx.defs.get_schema(node.op_type, version, "")
    given = {name: types[name] for name in node.input if name in types}
    values = {name: constants[name] for name in node.input if name in constants}
    found: dict[str, TypeProto] = onnx.shape_inference.infer_node_outputs(
        schema, node, given, values, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    return found


def _is_safe_division(node: NodeProto, types: dict[str, TypeProto], constants: dict[str, TensorProto]) -> bool:
    divisor = node.input[1]
    if divisor in types and types[divisor].tensor_type.elem_type in FRACTIONAL:
        return True
    return divisor in constants and bool((numpy_helper.to_array(constants[divisor]) > 0).all())


def _is_too_large(kind: TypeProto) -> bool:
    """By the sizes that are known."""
    tensor = kind.tensor_type
    sizes = [d.dim_value for d in tensor.shape.dim if d.HasField("dim_value")]
    long = len(tensor.shape.dim) == 1 and tensor.elem_type == TensorProto.INT64 and sizes > [LARGEST_SHAPE_DATA]
    return (
        long or len(tensor.shape.dim) > MOST_DIMENSIONS or any(s < 0 for s in sizes) or math.prod(sizes) > LARGEST_VALUE
    )
