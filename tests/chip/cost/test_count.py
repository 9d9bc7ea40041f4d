"""Work counted from a run of a compiled model, against numbers known from the layers' shapes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.cost import Layer, Work, count, estimate
from ffebm_compiler.chip.cost.count import activity
from ffebm_compiler.chip.hardware import Hardware
from ffebm_compiler.errors import InputError
from ffebm_compiler.ir import Weight
from ffebm_compiler.train import run_digital


def work_of(net: nn.Module, x: Tensor, block_size: int = 2, **options: Any) -> Work:
    model = fc.convert(net.eval(), block_size=block_size, **options).eval()
    values = model.bind_inputs((x,), {})
    _, settled = model.equilibrium(x)
    return count(model.program, model.network, values, settled, run_digital, samples=len(x))


def shape(layer: Layer) -> tuple[int, int, int, int]:
    return layer.groups, layer.rows, layer.columns, layer.positions


def test_two_dense_layers() -> None:
    net = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    (block,) = work_of(net, torch.rand(5, 12)).analog
    assert [shape(layer) for layer in block.layers] == [(1, 12, 7, 1), (1, 7, 3, 1)]
    assert [layer.label for layer in block.layers] == ["0", "2"]
    assert [layer.feedback for layer in block.layers] == [False, True]
    assert [(s.size, s.read) for s in block.states] == [(7, True), (3, False)]
    assert [s.size for s in block.inputs] == [12]
    assert [s.size for s in block.outputs] == [3]
    assert not block.inputs[0].error  # nothing before it learns
    assert block.macs == 12 * 7 + 7 * 3
    weight = net[2].weight.detach().double().abs()
    assert block.layers[1].magnitude == pytest.approx(float(weight.mean() / weight.max()))
    assert block.sweeps >= 1


@pytest.mark.parametrize(
    ("conv", "size", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 5), (1, 27, 8, 30)),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2), (4, 9, 9), (2, 18, 4, 16)),
        (nn.Conv1d(4, 6, 5), (4, 20), (1, 20, 6, 16)),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 3), (1, 16, 3, 18)),
    ],
)
def test_a_convolution_is_its_unrolled_matrix_used_at_each_position(
    conv: nn.Module, size: tuple[int, ...], expected: tuple[int, int, int, int]
) -> None:
    (block,) = work_of(nn.Sequential(conv, nn.ReLU()), torch.rand(2, *size)).analog
    (layer,) = block.layers
    assert shape(layer) == expected
    assert layer.macs == math.prod(expected)
    assert block.outputs[0].size == expected[0] * expected[2] * expected[3]


def test_a_transposed_convolution_multiplies_each_input_with_each_of_its_weights() -> None:
    """4 x 3 x 3 inputs, each with 2 x 4 x 4 weights; 2 columns of 4 * 16 rows at 8 x 8 positions."""
    net = nn.Sequential(nn.ConvTranspose2d(4, 2, 4, stride=2), nn.ReLU())
    (block,) = work_of(net, torch.rand(2, 4, 3, 3)).analog
    (layer,) = block.layers
    assert shape(layer) == (1, 64, 2, 64)
    assert layer.macs == 36 * 32


def test_a_linear_layer_is_used_once_a_token() -> None:
    (block,) = work_of(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), torch.rand(3, 4, 6)).analog
    assert shape(block.layers[0]) == (1, 6, 5, 4)


def test_work_is_that_of_one_sample() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 4)
    )
    x = torch.rand(1, 2, 6, 6)
    one, four = work_of(net, x), work_of(net, x.expand(4, -1, -1, -1))
    for a, b in zip(one.parts, four.parts, strict=True):
        assert type(a) is type(b)
        assert a.macs == b.macs
    for a, b in zip(one.analog, four.analog, strict=True):
        assert [s.size for s in a.states] == [s.size for s in b.states]
        assert [shape(layer) for layer in a.layers] == [shape(layer) for layer in b.layers]


class Mixed(nn.Module):
    """A product of two computed values is digital."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(x)) * torch.relu(self.b(x)))


def test_digital_parts_count_what_they_compute() -> None:
    net = Mixed()
    work = work_of(net, torch.rand(2, 6))
    assert sum(p.macs for p in work.analog) == 48 + 48 + 16
    assert sum(p.macs for p in work.digital) == 0
    assert sum(p.operations for p in work.digital) == 8  # one product
    assert sum(p.values for p in work.digital) == 24  # two read, one written
    last = work.analog[-1]
    assert last.inputs[0].error  # layers before it learn


def test_digital_matrices_are_multiply_accumulates_and_their_weights_learn() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU())
    work = work_of(net, torch.rand(2, 6), digital=["0"])
    first = work.digital[0]
    assert first.macs == 30
    assert first.parameters == 35
    assert work.analog[0].inputs[0].error


def test_counting_changes_nothing() -> None:
    """Running statistics, the random state and the weights stay as they are."""
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4))
    model = fc.convert(net, block_size=1)
    x = torch.rand(8, 6)
    values = model.bind_inputs((x,), {})
    _, settled = model.equilibrium(x)
    before = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    random = torch.get_rng_state()
    count(model.program, model.network, values, settled, run_digital, samples=8)
    assert torch.equal(random, torch.get_rng_state())
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_missing_equilibrium_is_named() -> None:
    model = fc.convert(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), block_size=1)
    values = model.bind_inputs((torch.rand(1, 3),), {})
    with pytest.raises(InputError) as caught:
        count(model.program, model.network, values, (), run_digital, samples=0)
    assert [p.where for p in caught.value.problems] == ["block block1", "option samples"]


def test_the_array_dissipates_what_its_devices_do() -> None:
    """The sum over every device of V^2 G, one by one: the estimate's product of means misses the chance correlation of
    inputs and rows.

    That is std(V^2)/mean(V^2) * std(row)/mean(row) / sqrt(rows) = 0.9 * 0.05 / sqrt(500) = 0.2 %; five of these are
    allowed.
    """
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(500, 100, bias=False), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(100, 500, generator=generator, dtype=torch.float64))
    x = torch.rand(1, 500, generator=generator, dtype=torch.float64)
    hardware = Hardware(g_min=1e-6, g_max=50e-6, full_scale=0.4, settling_time=2e-6)
    cost = estimate(work_of(net, x, 1), hardware)
    weight = net[0].weight.detach()
    volts = 0.4 * x / x.max()
    span = (50e-6 - 1e-6) * weight / weight.abs().max()
    positive, negative = 1e-6 + span.clamp(min=0), 1e-6 + (-span).clamp(min=0)
    exact = float((volts.square() * (positive + negative)).sum() * 2e-6)
    assert cost.total("inference", component="array").energy == pytest.approx(exact, rel=0.01)


def test_activity_is_rms_over_the_largest() -> None:
    assert activity(torch.tensor([3.0, 4.0])) == pytest.approx(math.sqrt(12.5) / 4)
    assert activity(torch.ones(5)) == pytest.approx(1.0)
    assert activity(torch.zeros(3)) is None
    assert activity(torch.ones(3, dtype=torch.int64)) is None
    assert activity(torch.ones(0)) is None
    assert activity(torch.full((3,), 1e-30)) == pytest.approx(1.0)  # no underflow
    assert activity(torch.tensor([1.0, math.inf])) is None


def test_every_weight_of_the_model_is_counted_once() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    model = fc.convert(net, block_size=3)
    weights = {
        o.path for b in model.program.energy_blocks for t in b.layers for o in t.operands if isinstance(o, Weight)
    }
    work = work_of(net, torch.rand(2, 1, 6, 6), block_size=3)
    matrices = sum(p.numel() for n, p in model.network.named_parameters() if n in weights and p.dim() > 1)
    assert sum(layer.weights for block in work.analog for layer in block.layers) == matrices
