"""Sizes of values as expressions in the batch."""

from __future__ import annotations

import torch
from models import ZOO
from part_graphs import values_of
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.onnx.shapes import BATCH, Shapes, SizeLeaf, TensorLeaf, shapes_of, symbols_of


def shapes(net: nn.Module, *args: object) -> tuple[fc.FFEBM, Shapes]:
    model = fc.convert(net, 2)
    return model, shapes_of(model.program, model.network, values_of(model, args))


def sizes(found: Shapes, name: str) -> object:
    (leaf,) = found.values[name].leaves
    return leaf.sizes if isinstance(leaf, TensorLeaf) else leaf


def test_views_and_sizes() -> None:
    """The model's own sizes, 3 channels among them, are not taken for the batch of 3."""
    entry = next(e for e in ZOO if e.name == "views")
    net, args = entry.build()
    model, found = shapes(net, *args)
    assert sizes(found, "size_1") == SizeLeaf(BATCH)
    assert sizes(found, "floordiv") == SizeLeaf(6)
    for block in model.program.energy_blocks:
        for name in block.outputs:
            first, *rest = found.values[name].leaves[0].sizes
            assert first == BATCH
            assert all(isinstance(s, int) for s in rest)
            assert tuple(rest) == found.recorded[name].leaves[0].sizes[1:]


class Coincidence(nn.Module):
    """A batch as large as everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.a(x))
        return torch.relu(self.b(torch.atan(h @ self.scale))), torch.atan(self.scale)


def test_a_weight_as_large_as_the_batch_is_no_batch() -> None:
    _, found = shapes(Coincidence(), torch.randn(4, 4))
    names = {n: s.leaves[0].sizes for n, s in found.values.items()}
    assert (4, 4) in names.values()
    assert (BATCH, 4) in names.values()
    assert set(names.values()) == {(4, 4), (BATCH, 4)}


class Opaque(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)


def test_a_step_that_can_not_run_on_shapes_is_read_off_the_example() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Opaque(), nn.Linear(8, 2), nn.ReLU())
    model = fc.convert(net, 2, digital=["2"])
    found = shapes_of(model.program, model.network, values_of(model, (torch.randn(3, 6),)))
    assert {s.leaves[0].sizes[0] for s in found.values.values()} == {BATCH}


def test_arguments_that_are_numbers_have_names() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 8)

        def forward(self, x: Tensor, times: int) -> Tensor:
            return torch.atan(torch.relu(self.a(x))).repeat(1, times)

    model, found = shapes(Repeated(), torch.randn(3, 6), 2)
    assert symbols_of(model.program, {"x": torch.zeros(5, 6), "times": 4}) == {"batch": 5, "times": 4}
    (name,) = model.program.digital_blocks[0].outputs
    first, second = found.values[name].leaves[0].sizes
    assert first == BATCH
    assert str(second) == "8*times"
