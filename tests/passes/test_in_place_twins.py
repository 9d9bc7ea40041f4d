"""Every in-place method of a tensor: its twin gives what it writes, of its type and shape, or there is none and it is
refused.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffebm_compiler.passes.graph.in_place_twins import KEEPS_TYPE_AND_SHAPE, ON_A_COPY, SAME_MEANING, kept, on_copy

IN_PLACE = sorted(n for n in dir(Tensor) if n.endswith("_") and not n.startswith("_") and not n.endswith("__"))
WITHOUT_TWIN = {
    "rename_",  # of named tensors, which torch 2.9 has
    "as_strided_", "resize_", "resize_as_", "resize_as_sparse_", "set_", "sparse_resize_", "sparse_resize_and_clear_",
}  # fmt: skip
INDEX = torch.tensor([[0, 2, 1], [1, 0, 2], [2, 1, 0]])
OTHERS = ("float", "double", "half", "long", "bool")


def floats() -> Tensor:
    return torch.tensor([[0.25, -0.5, 0.75], [0.125, 0.5, -0.25], [0.875, -0.125, 0.375]])


def candidates(x: Tensor) -> list[tuple[tuple, dict]]:
    """Arguments, one of which a method takes."""
    other = floats().flip(0).to(x.dtype) + 1
    row, numbers = torch.tensor([0, 2]), other[:2].clone()
    return [
        ((), {}),
        ((other,), {}),
        ((0.5,), {}),
        ((2,), {}),
        ((other, 0.5), {}),
        ((other, other), {}),
        ((0.0, 0.5), {}),
        ((0, 1), {}),
        ((0,), {}),
        ((1, other), {}),
        ((1, row, 0.5), {}),
        ((0, row, numbers), {}),
        ((0, row, numbers, "amin"), {}),
        ((1, INDEX, other), {}),
        ((1, INDEX, other, "amax"), {}),
        ((INDEX, other), {}),
        ((x > 0.3, 2.0), {}),
        ((x > 0.3, other), {}),
        (((row, row), other[0, :2]), {}),
        ((other[0], other[1]), {}),
        ((other[None], other[None]), {}),
        ((2, 0, 0.5), {}),
        ((other, lambda a, b: a + b), {}),
        ((other, other, lambda a, b, c: a + b * c), {}),
        ((lambda a: a + 1,), {}),
        ((other, other[0]), {}),
    ]


def outcome(call, x: Tensor, args: tuple, kwargs: dict) -> Tensor | None:
    torch.default_generator.manual_seed(0)  # torch.manual_seed asks for every device first
    try:
        return call(x, *args, **kwargs)
    except (RuntimeError, TypeError, IndexError, ValueError):
        return None


def same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def operands() -> list[Tensor]:
    signed, whole = floats(), torch.tensor([[3, 1, 2], [4, 5, 1], [2, 6, 3]])
    return [
        signed,
        signed.abs() + 0.1,
        signed.abs() + 1.5,
        whole,
        whole > 2,
        signed[0],
        signed.half(),
        signed.double(),
        signed[None],
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:index_reduce", "ignore:This overload")
@pytest.mark.parametrize("name", [n for n in IN_PLACE if n not in WITHOUT_TWIN])
def test_a_twin_gives_what_the_method_writes(name: str) -> None:
    plain = name[:-1]
    twin = getattr(on_copy, name) if name in ON_A_COPY else getattr(kept, plain, None) or getattr(Tensor, plain)
    worked = 0
    for x in operands():
        fitting = 0
        for args, kwargs in candidates(x):
            if fitting == 2:
                break
            written = x.clone()
            expected = outcome(getattr(Tensor, name), written, args, kwargs)
            before = x.clone()
            found = outcome(twin, x, args, kwargs)
            assert torch.equal(torch.nan_to_num(x), torch.nan_to_num(before)), "the operand is left alone"
            if expected is not None:
                assert same(found, written), (args, x.dtype)
                fitting += 1
            elif name[:-1] not in KEEPS_TYPE_AND_SHAPE:
                assert found is None, (args, x.dtype)
        worked += fitting
    assert worked, "no candidate fits"


def test_every_method_is_in_one_table() -> None:
    named = {f"{n}_" for n in SAME_MEANING} | ON_A_COPY | WITHOUT_TWIN
    assert set(IN_PLACE) <= named
    assert not ({f"{n}_" for n in SAME_MEANING} & ON_A_COPY)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("method", ["add", "mul", "sub", "div", "pow", "copysign"])
def test_an_operand_keeps_its_type_or_the_call_raises(method: str, other: str) -> None:
    for x in operands():
        y = getattr(torch.tensor([2.0, 1.0, 3.0]), other)()
        written = x.clone()
        expected = outcome(getattr(Tensor, f"{method}_"), written, (y,), {})
        assert same(outcome(getattr(kept, method), x, (y,), {}), None if expected is None else written)


def test_an_operand_is_not_broadcast() -> None:
    with pytest.raises(RuntimeError, match="broadcast shape"):
        kept.add(torch.ones(3), torch.ones(2, 3))
