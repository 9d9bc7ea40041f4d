"""A flat graph of functional operations as an ONNX model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, fx
from torch.export.exported_program import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymIntArgument,
    TensorArgument,
)
from torch.utils._pytree import tree_structure

from .trace import MARK, quietly

OPSET = 20


def to_onnx(module: fx.GraphModule, opset: int = OPSET) -> ModelProto:
    """The model of a flat graph whose nodes carry their fake values in ``meta["val"]``, and the user's label in ``meta["label"]``.

    Inputs and outputs are the placeholders and results in order, under names of torch's; see :mod:`.names`.
    """
    for node in module.graph.nodes:
        node.meta["stack_trace"] = label = MARK + node.meta.get("label", "")
        node.meta["nn_module_stack"] = {label: (label, "")}
    with quietly(), _silent("torch.onnx", "onnxscript", "onnx_ir"):
        exported = torch.onnx.export(_program(module), dynamo=True, verbose=False, optimize=True, opset_version=opset)
    assert exported is not None
    return exported.model_proto


def _program(module: fx.GraphModule) -> ExportedProgram:
    """The graph as what torch's exporter takes: every tensor an input, none of them state."""
    nodes = list(module.graph.nodes)
    given = [_argument(n) for n in nodes if n.op == "placeholder"]
    results = [_argument(n) for n in nodes[-1].args[0]]
    module.recompile()
    signature = ExportGraphSignature(
        [InputSpec(InputKind.USER_INPUT, a, None) for a in given],
        [OutputSpec(OutputKind.USER_OUTPUT, a, None) for a in results],
    )
    spec = tree_structure((tuple(range(len(given))), {}))
    call = ModuleCallSignature([], [], spec, tree_structure(tuple(range(len(results)))))
    return ExportedProgram(module, module.graph, signature, {}, {}, [ModuleCallEntry("", call)], None, {})


def _argument(node: fx.Node) -> TensorArgument | SymIntArgument:
    return TensorArgument(node.name) if isinstance(node.meta["val"], Tensor) else SymIntArgument(node.name)


@contextmanager
def _silent(*loggers: str) -> Iterator[None]:
    """What they log at export is about their insides."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


# --- the tensors of the model in a graph that holds them as initializers ---------------------------------


def with_initializers(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model with those inputs as initializers, whose data is elsewhere."""
    moved = _copy(model)
    graph = moved.graph
    chosen = {v.name: v for v in graph.input if v.name in names}
    kept = [v for v in graph.input if v.name not in chosen]
    for name in names:
        declared = chosen[name].type.tensor_type
        graph.initializer.append(
            TensorProto(name=name, data_type=declared.elem_type, dims=[d.dim_value for d in declared.shape.dim])
        )
    del graph.input[:]
    graph.input.extend(kept)
    return moved


def without_initializers(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model with those initializers as its last inputs."""
    moved = _copy(model)
    graph = moved.graph
    tensors = {t.name: t for t in graph.initializer}
    kept = [t for t in graph.initializer if t.name not in names]
    graph.input.extend(onnx.helper.make_tensor_value_info(n, tensors[n].data_type, tensors[n].dims) for n in names)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return moved


def with_external(model: ModelProto, entries: Mapping[str, tuple[int, int]], location: str) -> ModelProto:
    """The model with the data of its initializers in a file.

    Args:
        entries: offset and length in the file, in bytes, by path.
        location: the file's name, beside the model.
    """
    placed = _copy(model)
    for tensor in placed.graph.initializer:
        if tensor.name in entries:
            offset, length = entries[tensor.name]
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)
    return placed


def with_data(model: ModelProto, tensors: Mapping[str, Tensor]) -> ModelProto:
    """The model with these tensors inside."""
    filled = _copy(model)
    for tensor in filled.graph.initializer:
        if tensor.name in tensors:
            value = tensors[tensor.name].detach().cpu().numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return filled


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
