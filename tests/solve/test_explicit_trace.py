"""Traced code runs at other values, in other orders of memory, and writes to nothing that it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffebm_compiler.solve.explicit_code import SHAPE
from ffebm_compiler.solve.explicit_trace import scattered, traced


def test_a_derivative_is_recorded_as_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    def slope(values: dict) -> dict:
        with torch.enable_grad():
            x = values["x"].detach().requires_grad_()
            (found,) = torch.autograd.grad((torch.sin(x) * values["c"]).sum(), x)
        return {"slope": found}

    code = traced(slope, {"x": torch.zeros(4), "c": torch.zeros(4)})
    monkeypatch.setattr(torch.autograd, "grad", None)
    x, c = torch.randn(4), torch.randn(4)
    assert torch.allclose(code({"x": x, "c": c})["slope"], c * torch.cos(x))


def test_views_serve_any_order_of_memory() -> None:
    def flat(values: dict) -> dict:
        return {"y": values["x"].view(2, -1), "z": values["x"].flatten(1).t()}

    code = traced(flat, {"x": torch.zeros(2, 3, 4, 5)})
    x = torch.randn(2, 3, 4, 5)
    found = code({"x": x.contiguous(memory_format=torch.channels_last)})
    assert torch.equal(found["y"], x.flatten(1))
    assert torch.equal(found["z"], x.flatten(1).t())


def test_what_is_written_in_place_becomes_new_values() -> None:
    def filled(values: dict) -> dict:
        y: Tensor = values["x"] * 2
        y[0] = 7.0
        y.add_(1)
        return {"y": y}

    code = traced(filled, {"x": torch.zeros(3)})
    x = torch.tensor([1.0, 2.0, 3.0])
    for _ in range(2):
        assert code({"x": x})["y"].tolist() == [8, 5, 7]
    assert x.tolist() == [1, 2, 3]


def square_slope(values: dict) -> dict:
    with torch.enable_grad():
        x = values["x"].detach().requires_grad_()
        (found,) = torch.autograd.grad((x * x).sum(), x)
    return {"y": found}


def test_nothing_is_computed_on_the_examples() -> None:
    """Numbers for a terabyte are no obstacle."""
    code = traced(square_slope, {"x": torch.empty(1).expand(1 << 38)})
    assert (code.inputs, code.outputs) == (("x",), ("y",))


def test_hooks_on_saved_tensors_see_nothing() -> None:
    """Activation checkpointing counts what a forward pass saves."""
    seen: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        code = traced(square_slope, {"x": torch.zeros(2)})
    assert not seen
    assert code({"x": torch.tensor([3.0, 4.0])})["y"].tolist() == [6, 8]


def test_what_a_gather_gives_back_is_added_without_a_copy() -> None:
    def spread(values: dict) -> dict:
        with torch.enable_grad():
            x = values["x"].detach().requires_grad_()
            (found,) = torch.autograd.grad(x.gather(1, values["index"]), x, values["c"])
        return {"y": found}

    index = torch.tensor([[0, 2, 2], [1, 1, 1]])  # some are read twice
    code = traced(spread, {"x": torch.zeros(2, 4), "index": torch.zeros_like(index), "c": torch.zeros(2, 3)})
    targets = [n.target for n in code.module.graph.nodes]
    assert scattered in targets
    assert torch.ops.aten.scatter_add.default not in targets
    found = code({"x": torch.randn(2, 4), "index": index, "c": torch.tensor([[1.0, 2, 3], [4, 5, 6]])})["y"]
    assert found.tolist() == [[1, 0, 5, 0], [0, 15, 0, 0]]


def test_a_node_remembers_its_shape_and_nothing_else_of_its_trace() -> None:
    code = traced(lambda values: {"y": values["x"] @ values["w"]}, {"x": torch.zeros(5, 3), "w": torch.zeros(3, 2)})
    metas = [n.meta for n in code.module.graph.nodes if n.op != "output"]
    assert metas == [{SHAPE: (5, 3)}, {SHAPE: (3, 2)}, {SHAPE: (5, 2)}]
