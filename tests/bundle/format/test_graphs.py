"""ONNX graphs of a bundle: any runtime opens them where they stand, and reading takes none that does more than
compute.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bundle_samples import variety, variety_files
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import load_external_data_for_model

from ffebm_compiler.bundle import write_bundle
from ffebm_compiler.bundle.format.graphs import PARAMETERS, placed, read_graph
from ffebm_compiler.bundle.format.tensors import Stored, layout_of
from ffebm_compiler.onnx import FORWARD, VJP, Interface

NORM = "digital1.onnx"


def layout() -> dict[str, Stored]:
    return layout_of(variety_files()[PARAMETERS])


def interface(kind: str = FORWARD) -> Interface:
    return variety().modes[kind != FORWARD].parts["digital1"][kind]


def stored(name: str = NORM) -> ModelProto:
    return onnx.load_model_from_string(variety_files()[name])


@pytest.mark.slow
def test_a_graph_in_a_folder_has_the_parameters_of_the_model(tmp_path: Path) -> None:
    folder = write_bundle(variety(), tmp_path / "b")
    model = onnx.load(folder / NORM, load_external_data=False)
    load_external_data_for_model(model, str(folder))
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    ports = (*interface().parameters, *interface().buffers)
    assert ports
    for port in ports:
        assert np.array_equal(tensors[port.name], variety().tensors[port.value].numpy())


@pytest.mark.slow
def test_onnxruntime_opens_it_as_it_stands(tmp_path: Path) -> None:
    folder = write_bundle(variety(), tmp_path / "b")
    session = onnxruntime.InferenceSession(folder / NORM, providers=["CPUExecutionProvider"])
    x = torch.randn(3, 2, 4, 4)
    (port,) = interface().values
    (found, *_) = session.run(None, {port.name: x.numpy()})
    t = variety().tensors
    expected = torch.batch_norm(
        x, t["norm.weight"], t["norm.bias"], t["norm.running_mean"], t["norm.running_var"], False, 0.0, 1e-5, False
    )
    assert torch.allclose(torch.as_tensor(found), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [NORM, "digital1.training.onnx", "digital1.vjp.onnx"])
def test_a_graph_comes_back(name: str) -> None:
    kind = {NORM: FORWARD, "digital1.training.onnx": "training"}.get(name, VJP)
    content = variety_files()[name]
    without = read_graph(content, interface(kind), layout())
    assert placed(without, interface(kind), layout()) == content
    assert without == variety().graphs[name]


def _node(op: str, domain: str = "") -> Callable[[ModelProto], object]:
    return lambda m: m.graph.node.append(helper.make_node(op, [m.graph.input[0].name], ["more"], domain=domain))


def _external(key: str, value: str) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        for entry in model.graph.initializer[0].external_data:
            if entry.key == key:
                entry.value = value

    return change


def _constant(sizes: list[int]) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        model.graph.initializer.append(helper.make_tensor("sizes", TensorProto.INT64, [len(sizes)], sizes))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["sizes"], ["large"]))

    return change


def _add_function(model: ModelProto) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], model.opset_import))


def _body(model: ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", model.graph))


def _shared_name(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


REFUSED: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "control flow": (_node("Loop"), "control flow"),
    "a branch": (_node("If"), "control flow"),
    "a graph in an attribute": (_body, "control flow"),
    "another domain": (_node("Gelu", "com.microsoft"), "of the domain 'com.microsoft'"),
    "another opset": (lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)), "operator sets"),
    "a future opset": (lambda m: setattr(m.opset_import[0], "version", 999), "operator sets"),
    "a future format": (lambda m: setattr(m, "ir_version", 999), "IR version"),
    "a function": (_add_function, "functions of its own"),
    "an unknown operator": (_node("Evil"), "not valid"),
    "another file": (_external("location", "../../etc/passwd"), "elsewhere than"),
    "another place": (_external("offset", "0"), "elsewhere than"),
    "more than the tensor": (_external("length", str(1 << 40)), "elsewhere than"),
    "data of its own": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"\0" * 8), "elsewhere than"),
    "another type": (lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.INT32), "elsewhere than"),
    "another shape": (lambda m: m.graph.initializer[0].dims.append(1), "elsewhere than"),
    "a tensor less": (lambda m: m.graph.initializer.pop(), "has no tensor"),
    "a tensor twice": (_shared_name, "two tensors of one name"),
    "an input more": (lambda m: m.graph.input.append(m.graph.input[0]), "has the inputs"),
    "an output less": (lambda m: m.graph.output.pop(), "has the outputs"),
    "a constant larger than memory": (_constant([1 << 20, 1 << 20]), "larger than any memory"),
    "a constant of no size": (_constant([-5]), "not valid|larger than"),
    "random numbers of its own": (_node("RandomNormalLike"), "draws random numbers"),
    "an unordered graph": (
        lambda m: m.graph.node.append(helper.make_node("Identity", ["nothing"], ["more"])),
        "not valid",
    ),
    "a sparse tensor": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_more_than_a_parts_graph_is_refused(what: str) -> None:
    change, says = REFUSED[what]
    model = stored()
    change(model)
    with pytest.raises(ValueError, match=says):
        read_graph(model.SerializeToString(deterministic=True), interface(), layout())


def test_a_constant_with_data_outside_is_refused() -> None:
    model = stored("digital1.vjp.onnx")
    tensor = model.graph.initializer.add(
        name="own", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=PARAMETERS)
    with pytest.raises(ValueError, match="constant own has data outside of the graph"):
        read_graph(model.SerializeToString(deterministic=True), interface(VJP), layout())


@pytest.mark.parametrize("size", [0, 4, 64])
def test_a_constant_has_as_many_numbers_as_its_shape_says(size: int) -> None:
    model = stored("digital1.vjp.onnx")
    model.graph.initializer.add(name="own", data_type=TensorProto.FLOAT, dims=[2], raw_data=b"\0" * size)
    with pytest.raises(ValueError, match="constant own has other data than its type and shape say"):
        read_graph(model.SerializeToString(deterministic=True), interface(VJP), layout())


@pytest.mark.parametrize("content", [b"\xff" * 20, b"\x0a\x03a\xff", b"\x0a" * 5000])
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"no ONNX graph|IR version|no text|spelled"):
        read_graph(content, interface(), layout())


def test_a_graph_of_another_spelling_is_refused() -> None:
    content = variety_files()[NORM]
    with pytest.raises(ValueError, match="spelled in another way"):
        read_graph(content + content[:2], interface(), layout())  # the version a second time
