"""Graphs of few bytes that ask for more than any memory: told before a library allocates by what they say."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ffebm_compiler.bundle.format.graph_sizes import size_problems


def graph(*nodes: NodeProto, **constants: list[int]) -> ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    held = [numpy_helper.from_array(np.asarray(v, np.int64), n) for n, v in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [], held), opset_imports=[helper.make_opsetid("", 21)])


def filled(sizes: str, to: str) -> NodeProto:
    """Whole numbers of those sizes."""
    return helper.make_node(
        "ConstantOfShape", [sizes], [to], value=helper.make_tensor("v", TensorProto.INT64, [1], [1])
    )


DOUBLED = [helper.make_node("Concat", [f"n{i}", f"n{i}"], [f"n{i + 1}"], axis=0) for i in range(30)]
LARGE: dict[str, ModelProto] = {
    "a constant": graph(helper.make_node("ConstantOfShape", ["n"], ["y"]), n=[1 << 20, 1 << 20]),
    "a constant of a size that is a constant of a size": graph(filled("n", "m"), filled("m", "y"), n=[(1 << 31) - 1]),
    "a list of sizes that doubles": graph(*DOUBLED, filled("n30", "y"), n0=[1]),
    "a range": graph(helper.make_node("Range", ["a", "b", "c"], ["y"]), a=0, b=1 << 33, c=1),  # type: ignore[arg-type]
    "a tile": graph(helper.make_node("Tile", ["x", "n"], ["y"]), n=[1, 1 << 40]),
    "more dimensions than any tensor": graph(filled("n", "y"), n=[1] * 65),
}  # fmt: skip


@pytest.mark.parametrize("what", LARGE)
def test_what_is_larger_than_any_memory_is_told(what: str) -> None:
    (problem,) = size_problems(LARGE[what])
    assert "larger than any memory" in problem


def test_the_first_operator_that_does_not_fit_is_told() -> None:
    (problem,) = size_problems(graph(helper.make_node("Conv", ["x", "x"], ["y"], strides=[0, 0])))
    assert problem.startswith("is not valid")


def test_sizes_that_vary_are_no_problem() -> None:
    node = helper.make_node("Reshape", ["x", "n"], ["y"])
    assert [*size_problems(graph(node, helper.make_node("Concat", ["y", "y"], ["z"], axis=0), n=[-1]))] == []


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("divisor", [0, -1, -3])
def test_whole_numbers_are_divided_by_positive_constants_only(operator: str, divisor: int) -> None:
    """On x86 a division by 0, or of the least whole number by -1, ends the process."""
    shape = helper.make_node("Shape", ["x"], ["n"])
    by_constant = graph(shape, helper.make_node(operator, ["n", "d"], ["y"]), d=[divisor])
    by_value = graph(shape, helper.make_node(operator, ["n", "n"], ["y"]))
    for model in (by_constant, by_value):
        (problem,) = size_problems(model)
        assert "divides whole numbers" in problem
    assert [*size_problems(graph(shape, helper.make_node(operator, ["n", "d"], ["y"]), d=[2]))] == []
    assert [*size_problems(graph(helper.make_node("Div", ["x", "x"], ["y"])))] == []
