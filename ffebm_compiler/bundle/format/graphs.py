"""The ONNX graphs of a bundle: their weights' places in ``parameters.safetensors``, and what a part's graph may be.

A graph that anyone may have written is taken only if it computes: standard operators of a known opset, no control flow,
no functions, no data from elsewhere, and just the inputs and outputs that the program says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from ...onnx import Interface, Port
from ...onnx.graph import without_initializers
from ...onnx.refusal import CONTROL_FLOW, DRAWS
from .graph_sizes import size_problems
from .limits import LARGEST_GRAPH, LARGEST_TENSOR, MOST_NODES
from .tensors import ITEM_SIZES, Stored

PARAMETERS = "parameters.safetensors"
_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}


def placed(content: bytes, interface: Interface, layout: Mapping[str, Stored]) -> bytes:
    """The graph with the places of its weights in the file of the parameters."""
    model = onnx.load_model_from_string(content)
    paths = _stored_ports(interface)
    for tensor in model.graph.initializer:
        if tensor.name in paths:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in _place(layout[paths[tensor.name].value]).items():
                tensor.external_data.add(key=key, value=value)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _place(stored: Stored) -> dict[str, str]:
    return {"location": PARAMETERS, "offset": str(stored.start), "length": str(stored.size)}


def unplaced(model: ModelProto, interface: Interface) -> bytes:
    """The graph without them, as :func:`placed` took it."""
    paths = _stored_ports(interface)
    for tensor in model.graph.initializer:
        if tensor.name in paths:
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _stored_ports(interface: Interface) -> dict[str, Port]:
    """The ports that are initializers, by name."""
    return {p.name: p for p in interface.initializers}


def read_graph(content: bytes, interface: Interface, layout: Mapping[str, Stored]) -> bytes:
    """The graph without its weights' places, after every check.

    Raises:
        ValueError: with everything that it must not be, a line each.
    """
    if len(content) > LARGEST_GRAPH:
        raise ValueError(f"is larger than {LARGEST_GRAPH >> 20} MiB")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as failure:
        raise ValueError("is no ONNX graph") from failure
    if not all(isinstance(t, str) for t in _texts(model)):
        raise ValueError("has names that are no text")
    if model.SerializeToString(deterministic=True) != content:
        raise ValueError("is spelled in another way than protobuf writes it")
    wrong = [*_model_problems(model), *_initializer_problems(model, interface, layout)]
    wrong += [] if wrong else [*_differences("inputs", model.graph.input, interface.inputs)]
    wrong += [] if wrong else [*_differences("outputs", model.graph.output, interface.results)]
    wrong += [] if wrong else [*_onnx_problems(model, interface)]
    if wrong:
        raise ValueError("\n".join(wrong))
    return unplaced(model, interface)


# --- what kind of graph ---------------------------------------------------------------------------------------


def _texts(message: Any) -> Iterator[Any]:
    """Every text in a message; one that is no UTF-8 reads as bytes."""
    for field, value in message.ListFields():
        alone = isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__")
        if field.message_type is not None:
            for nested in [value] if alone else value:
                yield from _texts(nested)
        elif field.type == field.TYPE_STRING:
            yield from [value] if alone else value


def _model_problems(model: ModelProto) -> Iterator[str]:
    newest = onnx.defs.onnx_opset_version()
    if not 0 < model.ir_version <= onnx.IR_VERSION:
        yield f"has the IR version {model.ir_version}; this onnx knows versions up to {onnx.IR_VERSION}"
    opsets = [(o.domain, o.version) for o in model.opset_import]
    if len(opsets) != 1 or opsets[0][0] != "" or not 0 < opsets[0][1] <= newest:
        yield f"needs the operator sets {opsets[:4]}; a part needs the standard one, up to version {newest}"
    if model.functions or model.training_info:
        yield "has functions of its own"
    if model.graph.sparse_initializer or model.graph.quantization_annotation:
        yield "has sparse or quantized tensors"
    if len(model.graph.node) > MOST_NODES:
        yield f"has more than {MOST_NODES} operators"
        return
    for node in model.graph.node:
        yield from _node_problems(node)


def _node_problems(node: NodeProto) -> Iterator[str]:
    where = f"operator {node.name[:80]!r} ({node.op_type[:40]})"
    if node.domain:
        yield f"{where} is of the domain {node.domain[:40]!r}, not a standard one"
    if node.op_type in DRAWS:
        yield f"{where} draws random numbers of its own, which its training graphs can't share"
    if node.op_type in CONTROL_FLOW or any(a.HasField("g") or a.graphs for a in node.attribute):
        yield f"{where} is control flow, which a digital part has none of"
    for attribute in node.attribute:
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            yield from (f"{where} {p}" for p in _data_problems(tensor))
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            yield f"{where} has sparse tensors"


def _data_problems(tensor: TensorProto) -> Iterator[str]:
    """A constant inside the graph: its data is there, and of its size."""
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        yield "has data outside of the graph"
    if tensor.HasField("segment") or tensor.string_data:
        yield "has data that no number is"
    if any(d < 0 for d in tensor.dims) or len(tensor.dims) > 16 or math.prod(tensor.dims) > LARGEST_TENSOR:
        yield "has a tensor of no sane size"
    elif _held(tensor) != math.prod(tensor.dims) and _dtype(tensor.data_type) in ITEM_SIZES:
        yield "has other data than its type and shape say"


def _held(tensor: TensorProto) -> float:
    """The numbers that a tensor has, in whichever field."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data) / int(ITEM_SIZES.get(_dtype(tensor.data_type), 1))
    fields = (tensor.float_data, tensor.double_data, tensor.int32_data, tensor.int64_data, tensor.uint64_data)
    return sum(map(len, fields))


# --- its weights ------------------------------------------------------------------------------------------------


def _initializer_problems(model: ModelProto, interface: Interface, layout: Mapping[str, Stored]) -> Iterator[str]:
    ports = _stored_ports(interface)
    names = [t.name for t in model.graph.initializer]
    if len(set(names)) != len(names):
        yield "has two tensors of one name"
    yield from (f"has no tensor {n}, which its part reads" for n in ports if n not in names)
    for tensor in model.graph.initializer:
        if tensor.name in ports:
            stored = layout.get(ports[tensor.name].value)
            if stored is None or not _is_placed(tensor, stored):
                yield f"has {tensor.name[:100]} elsewhere than where {PARAMETERS} has it, or of another type or shape"
        else:
            yield from (f"constant {tensor.name[:100]} {p}" for p in _data_problems(tensor))


def _is_placed(tensor: TensorProto, stored: Stored) -> bool:
    given = [(e.key, e.value) for e in tensor.external_data]
    return (
        tensor.data_location == TensorProto.EXTERNAL
        and given == [*_place(stored).items()]
        and not tensor.HasField("raw_data")
        and (_dtype(tensor.data_type), tuple(tensor.dims)) == (stored.dtype, stored.shape)
    )


def _dtype(data_type: int) -> str:
    """As numpy writes it."""
    name = TensorProto.DataType.Name(data_type) if data_type in TensorProto.DataType.values() else "unknown"
    return _DTYPES.get(name, name.lower())


# --- its inputs and outputs ---------------------------------------------------------------------------------------


def _differences(what: str, declared: Sequence[ValueInfoProto], ports: Sequence[Port]) -> Iterator[str]:
    names = [v.name for v in declared]
    if names != [p.name for p in ports]:
        yield f"has the {what} {', '.join(names)[:200]} instead of {', '.join(p.name for p in ports)[:200]}"
        return
    for value, port in zip(declared, ports, strict=True):
        kind = value.type.tensor_type
        shape = tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in kind.shape.dim)
        if (_dtype(kind.elem_type), shape) != (port.dtype, port.shape):
            declares = f"{_dtype(kind.elem_type)} {list(shape)}"
            yield f"has {port.name[:100]} as {declares} instead of {port.dtype} {list(port.shape)}"


# --- what onnx itself says ----------------------------------------------------------------------------------------


def _onnx_problems(model: ModelProto, interface: Interface) -> Iterator[str]:
    """By the checker, with every shape inferred; the weights are inputs there."""
    plain = without_initializers(model, [p.name for p in interface.initializers])
    if found := [*size_problems(plain)]:
        yield from found
        return
    try:
        onnx.checker.check_model(plain, full_check=True)
    except Exception as failure:  # the library raises errors of many kinds
        yield f"is not valid: {(str(failure).strip().splitlines() or ['?'])[0][:300]}"
