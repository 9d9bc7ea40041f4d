"""ONNX graphs that do more than compute, or read what they should not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from .shared import Files, flip


def _in_graph(files: Files, draw: random.Random) -> None:
    name = draw.choice([n for n in files if n.endswith(".onnx")])
    model = onnx.load_model_from_string(files[name])
    _change_graph(model, draw)
    files[name] = model.SerializeToString(deterministic=True)


OPERATORS = (
    "If",
    "Loop",
    "Scan",
    "ConstantOfShape",
    "Expand",
    "Tile",
    "Foo",
    "Identity",
    "Add",
    "Reshape",
    "Conv",
    "Gather",
    "Cast",
    "Range",
)
LOCATIONS = (
    "../parameters.safetensors",
    "/etc/passwd",
    "samples.safetensors",
    "",
    "parameters.safetensors\0",
    "*/_ORT_MEM_ADDR_/*",
)


def _change_graph(model: ModelProto, draw: random.Random) -> None:
    graph = model.graph
    node = draw.choice(graph.node) if graph.node else graph.node.add()
    tensor = draw.choice(graph.initializer) if graph.initializer else graph.initializer.add()
    port = draw.choice([*graph.input, *graph.output])
    changes: dict[str, Callable[[], Any]] = {
        "operator": lambda: setattr(node, "op_type", draw.choice(OPERATORS)),
        "domain": lambda: setattr(node, "domain", draw.choice(("com.microsoft", "ai.onnx.ml", "evil", "ai.onnx"))),
        "another node": lambda: graph.node.append(helper.make_node(draw.choice(OPERATORS), [*node.input], ["more"])),
        "repeated node": lambda: graph.node.append(node),
        "one node less": lambda: graph.node.remove(node),
        "order": lambda: graph.node.insert(0, graph.node.pop()),
        "input": lambda: node.input.append(draw.choice(("", "nothing", *node.input, *node.output))),
        "cycle": lambda: node.input.__setitem__(0, node.output[0]) if node.input else node.input.append("x"),
        "attribute": lambda: node.attribute.append(
            helper.make_attribute(
                draw.choice(("axis", "value", "pads", "to")), draw.choice((1, [1 << 40] * 4, "x", 1.5))
            )
        ),
        "graph inside": lambda: node.attribute.append(helper.make_attribute("body", graph)),
        "large attribute": lambda: (
            [a.ints.__setitem__(slice(None), [1 << 40] * len(a.ints)) for a in node.attribute if a.ints]
            or setattr(node, "name", "x")
        ),
        "function": lambda: model.functions.append(
            helper.make_function(
                "evil", "f", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], model.opset_import
            )
        ),
        "opset": lambda: setattr(model.opset_import[0], "version", draw.choice((0, 1, 7, 999, -1))),
        "opsets": lambda: model.opset_import.append(helper.make_opsetid(draw.choice(("", "evil")), 1)),
        "ir version": lambda: setattr(model, "ir_version", draw.choice((0, 1, 3, 99))),
        "port's name": lambda: setattr(port, "name", draw.choice(("", "x", f"{port.name}2"))),
        "port's type": lambda: setattr(port.type.tensor_type, "elem_type", draw.choice((0, 1, 7, 8, 11, 99))),
        "port's shape": lambda: port.type.tensor_type.shape.dim.add(dim_value=draw.choice((1, -1, 1 << 50))),
        "port's sizes": lambda: [
            d.__setattr__("dim_value", draw.choice((0, 1 << 40))) for d in port.type.tensor_type.shape.dim
        ],
        "port's kind": lambda: port.type.sequence_type.elem_type.tensor_type.__setattr__("elem_type", 1),
        "one output less": lambda: graph.output.pop(),
        "one input more": lambda: graph.input.append(port),
        "tensor's sizes": lambda: tensor.dims.append(draw.choice((0, -1, 1 << 40))),
        "tensor's type": lambda: setattr(tensor, "data_type", draw.choice((0, 7, 8, 11, 16, 99))),
        "tensor's data": lambda: setattr(tensor, "raw_data", draw.randbytes(draw.choice((0, 8, 64)))),
        "tensor's name": lambda: setattr(tensor, "name", draw.choice(("", "x", *[t.name for t in graph.initializer]))),
        "tensor twice": lambda: graph.initializer.append(tensor),
        "place": lambda: _change_place(tensor, draw),
        "large constant": lambda: _large_constant(model, draw),
        "sparse": lambda: graph.sparse_initializer.add(),
        "training": lambda: model.training_info.add(),
        "note": lambda: setattr(model, "doc_string", "x" * 100),
        "metadata": lambda: model.metadata_props.add(key="a", value="b"),
    }
    changes[draw.choice([*changes])]()


def _change_place(tensor: TensorProto, draw: random.Random) -> None:
    """Where the data of a weight stands."""
    tensor.data_location = TensorProto.EXTERNAL
    if not tensor.external_data or draw.random() < 0.2:
        tensor.external_data.add(
            key=draw.choice(("location", "offset", "length", "checksum", "basepath")),
            value=draw.choice(("0", *LOCATIONS)),
        )
        return
    entry = draw.choice(tensor.external_data)
    entry.value = (
        draw.choice(LOCATIONS)
        if entry.key == "location"
        else draw.choice(
            ("0", "-8", "1", str(1 << 62), "", "0x10", f" {entry.value}", f"0{entry.value}", str(int(entry.value) + 4))
        )
    )


def _large_constant(model: ModelProto, draw: random.Random) -> None:
    """A computation of a size that no memory has, all from constants."""
    sizes = draw.choice(([1 << 40], [1 << 20, 1 << 20], [1 << 62, 1 << 62], [-1], [0], [1 << 33]))
    given = helper.make_tensor("sizes", TensorProto.INT64, [len(sizes)], sizes)
    model.graph.initializer.append(given)
    model.graph.node.insert(
        0,
        helper.make_node(
            draw.choice(("ConstantOfShape", "Expand")), ["sizes", "sizes"][: draw.choice((1, 2))], ["large"]
        ),
    )
    if draw.random() < 0.5:
        model.graph.node.append(helper.make_node("ReduceSum", ["large"], ["summed"]))


def _flip_graph(files: Files, draw: random.Random) -> None:
    name = draw.choice([n for n in files if n.endswith(".onnx")])
    files[name] = flip(files[name], draw, draw.choice((1, 1, 2, 4, 16)))


GRAPHS = {"in a graph": _in_graph, "flip bits of a graph": _flip_graph}
