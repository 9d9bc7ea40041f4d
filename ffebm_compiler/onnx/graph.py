"""A flat graph of functional operations as an ONNX model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

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

from ..ir.tracing import TRACING
from ..quiet import silent
from ..torch_private import tree_structure
from .trace import MARK, all_nodes, quietly

OPSET = 21
"""The newest that every onnxruntime runs that the project takes (1.20 and later)."""


def to_onnx(module: fx.GraphModule, opset: int = OPSET) -> ModelProto:
    """The model of a flat graph; in ``meta`` its nodes carry their fake values, ``"val"``, and the user's ``"label"``.

    Inputs and outputs are the placeholders and results in order, under names of torch's; see :mod:`.names`.
    """
    for node in all_nodes(module):
        node.meta["stack_trace"] = label = MARK + node.meta.get("label", "")
        node.meta["nn_module_stack"] = {label: (label, "")}
    with TRACING, quietly(), silent("torch.onnx", "onnxscript", "onnx_ir", level=logging.ERROR):
        model: ModelProto = _exported(_program(module), opset).model_proto
    return model


def _exported(program: ExportedProgram, opset: int) -> Any:
    """By what torch.onnx.export calls once it has looked up how to translate every operation: that takes as long as the
    export of a part, and is the same for each."""
    try:
        from torch.onnx._internal.exporter._core import export

        signature(export).bind(program, registry=None, verbose=False, optimize=True, opset_version=opset)
        registry = _registry(opset)
    except (ImportError, AttributeError, TypeError):  # another version's
        return torch.onnx.export(program, dynamo=True, verbose=False, optimize=True, opset_version=opset)
    return export(program, registry=registry, verbose=False, optimize=True, opset_version=opset)


@functools.cache
def _registry(opset: int) -> Any:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(opset_version=opset)


def _program(module: fx.GraphModule) -> ExportedProgram:
    """The graph as what torch's exporter takes: every tensor an input, none of them state."""
    given = [_argument(n) for n in module.graph.nodes if n.op == "placeholder"]
    constants: dict[str, Any] = dict(_lifted(module))
    results = [_argument(n) for n in list(module.graph.nodes)[-1].args[0]]
    module.recompile()
    signature = ExportGraphSignature(
        [
            *(InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(n), n) for n in constants),
            *(InputSpec(InputKind.USER_INPUT, a, None) for a in given),
        ],
        [OutputSpec(OutputKind.USER_OUTPUT, a, None) for a in results],
    )
    spec = tree_structure((tuple(range(len(given))), {}))
    call = ModuleCallSignature([], [], spec, tree_structure(tuple(range(len(results)))))
    return ExportedProgram(module, module.graph, signature, {}, {}, [ModuleCallEntry("", call)], None, constants)


def _lifted(module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """The tensors that operations made on the way, by the name of the placeholder that now gives each."""
    first = next(iter(module.graph.nodes))
    for node in [n for n in module.graph.nodes if n.op == "get_attr"]:
        value = getattr(module, str(node.target))
        if isinstance(value, Tensor):
            with module.graph.inserting_before(first):
                given = module.graph.placeholder(f"c_{node.name}")
            given.meta.update(node.meta)
            node.replace_all_uses_with(given)
            module.graph.erase_node(node)
            yield given.name, value


def _argument(node: fx.Node) -> TensorArgument | SymIntArgument:
    return TensorArgument(node.name) if isinstance(node.meta["val"], Tensor) else SymIntArgument(node.name)


# --- the tensors of the model in a graph that holds them as initializers ---------------------------------


def in_order(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model with its inputs in this order."""
    ordered = _copy(model)
    declared = {v.name: v for v in model.graph.input}
    del ordered.graph.input[:]
    ordered.graph.input.extend(declared[n] for n in names)
    return ordered


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
