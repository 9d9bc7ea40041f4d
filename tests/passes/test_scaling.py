"""The compiler's work is linear in the graph, and no graph is too deep: calls are counted, nothing is timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc

pytestmark = pytest.mark.slow

WIDTH = 6


class Calls:
    """How many functions a piece of work calls, in Python and in C: what a clock would show, without its noise."""

    def __init__(self) -> None:
        self.count = 0

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        self.count += event in ("call", "c_call")

    def of(self, work: Callable[[], object]) -> int:
        self.count, before = 0, sys.getprofile()
        sys.setprofile(self._note)
        try:
            work()
        finally:
            sys.setprofile(before)
        return self.count


class Layers(nn.Module):
    """``n`` linear layers, joined as ``run`` says."""

    def __init__(self, n: int, run: Callable[[Layers, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self.run = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(n)), run
        self.weights = nn.ParameterList(torch.randn(WIDTH, WIDTH) / WIDTH for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def chain(net: Layers, x: Tensor) -> Tensor:
    for layer in net.layers:
        x = torch.relu(layer(x))
    return x


def residual(net: Layers, x: Tensor) -> Tensor:
    for layer in net.layers:
        x = x + torch.relu(layer(x))
    return x


def branches(net: Layers, x: Tensor) -> Tensor:
    return torch.cat([torch.relu(layer(x)) for layer in net.layers], 1)


def overwriting(net: Layers, x: Tensor) -> Tensor:
    for layer in net.layers:
        h = layer(x).view(-1, WIDTH)
        h += 1.0
        x = F.relu_(h)
    return x


def functions(net: Layers, x: Tensor) -> Tensor:
    for weight in net.weights:
        x = torch.relu(F.linear(x, weight)) * torch.tensor(0.9)
    return x


def sizes(net: Layers, x: Tensor) -> Tensor:
    for layer in net.layers:
        x = torch.relu(layer(x).view(x.size(0), -1))
    return x


def one_drive(net: Layers, x: Tensor) -> Tensor:
    """All between two states."""
    x = net.layers[0](x)
    for _ in net.layers:
        x = x.view(-1, WIDTH) * 0.999
    return torch.relu(net.layers[1](torch.relu(x)))


def smooth(net: Layers, x: Tensor) -> Tensor:
    """Each activation reads the sum of two, none with weights."""
    x = net.layers[0](x)
    for _ in net.layers:
        x = F.gelu(x) + F.silu(x)
    return x


def norms(n: int) -> nn.Module:
    """Convolutions with a norm, overwritten by their activations."""
    parts = [
        m
        for _ in range(n)
        for m in (nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
    ]
    return nn.Sequential(*parts)


RUNS = (chain, residual, branches, overwriting, functions, sizes, one_drive, smooth)
SHAPES: dict[str, Callable[[int], nn.Module]] = {
    **{run.__name__: lambda n, run=run: Layers(n, run) for run in RUNS},  # type: ignore[misc]
    "norms": norms,
}
OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "blocks of 2": lambda n: dict(block_size=2),
    "blocks of 7": lambda n: dict(block_size=7),
    "sizes": lambda n: dict(block_sizes=[2] * (n // 2)),
    "one block": lambda n: dict(block_size=10 * n),
    "names": lambda n: dict(digital=[f"layers.{i}" for i in range(0, n, 2)]),
}
GROWTH = 2.2
"""Twice the graph may take at most so many times the calls: quadratic work would take four times."""


def growth(work: Callable[[int], Callable[[], object]], n: int) -> float:
    work(4)()  # what is done once a process
    once, twice = (Calls().of(work(k)) for k in (n, 2 * n))
    return twice / once


@pytest.mark.parametrize("shape", SHAPES)
def test_passes_and_report_are_linear(shape: str) -> None:
    def work(n: int) -> Callable[[], object]:
        net = SHAPES[shape](n)
        return lambda: str(fc.explain(net, 2))

    assert growth(work, 100) < GROWTH


@pytest.mark.parametrize("choice", OPTIONS)
def test_every_option_is_linear(choice: str) -> None:
    def work(n: int) -> Callable[[], object]:
        net, options = Layers(n, chain), OPTIONS[choice](n)
        return lambda: fc.explain(net, **options)

    assert growth(work, 240) < GROWTH


@pytest.mark.parametrize("shape", ["chain", "residual", "branches", "norms"])
def test_conversion_with_its_verification_is_linear(shape: str) -> None:
    def work(n: int) -> Callable[[], object]:
        net = SHAPES[shape](n)
        return lambda: fc.convert(net, 2)

    assert growth(work, 30) < GROWTH


@pytest.mark.parametrize("shape", ["chain", "branches"])
def test_the_graph_of_a_partition_is_linear(shape: str) -> None:
    def work(n: int) -> Callable[[], object]:
        return fc.convert(SHAPES[shape](n), 2).to_networkx

    assert growth(work, 30) < GROWTH


# --- depth ------------------------------------------------------------------------------------------------


def test_a_chain_of_a_thousand_layers_compiles() -> None:
    report = fc.explain(Layers(1000, chain), 2)
    assert len(report.blocks) == 500
    assert all(len(b.layers) == 2 for b in report.blocks)


def test_a_drive_of_a_thousand_operations_is_one_coupling() -> None:
    net = Layers(1000, one_drive)
    model, x = fc.convert(net, 1), torch.randn(3, WIDTH)
    assert len(model.program.energy_blocks[0].states[0].drive.terms) == 2001
    assert torch.equal(model(x), net(x))


def test_a_deep_chain_trains_and_is_asked() -> None:
    """300 blocks one after the other: autograd, code, drawing and the copy of the model."""
    net, x = Layers(300, chain), torch.randn(2, WIDTH)
    model = fc.convert(net, 1)
    model(x).sum().backward()
    net(x).sum().backward()
    for found, exact in zip(model.layers.parameters(), net.layers.parameters(), strict=True):
        torch.testing.assert_close(found.grad, exact.grad)
    assert model.training_code.count("block300") >= 1
    assert len(model.to_networkx()) == 602
    assert len(model.to_feedforward().layers) == 300


def nested(depth: int) -> nn.Module:
    """Modules within modules, as deep as PyTorch itself can run."""
    net: nn.Module = nn.Linear(WIDTH, WIDTH)
    for _ in range(depth):
        net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), net)
    return net


@pytest.mark.parametrize("copy", [True, False])
def test_what_runs_compiles_however_deep_it_is_nested(copy: bool) -> None:
    net, x, limit = nested(200), torch.randn(2, WIDTH), sys.getrecursionlimit()
    assert torch.equal(fc.convert(net, 1, copy=copy)(x), net(x))
    assert sys.getrecursionlimit() == limit
