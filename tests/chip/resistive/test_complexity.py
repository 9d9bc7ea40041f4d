"""The published complexity: a sweep is one product with each matrix between banks, and one with its transpose."""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.random_networks import deep_network, double
from ffebm_compiler.chip.resistive.network import Drives
from ffebm_compiler.chip.resistive.solver import nodes, settle, sweep_once
from ffebm_compiler.solve import Tolerance


class Products(TorchDispatchMode):
    """Counts the multiplications in products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default):
            a, b = args[-2:]
            self.count += a.numel() * b.shape[-1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sizes", [(9, 6, 3), (9, 8, 6, 4, 3)])
def test_a_sweep_multiplies_by_each_matrix_twice(sizes: tuple[int, ...]) -> None:
    circuit = deep_network(sizes, torch.Generator().manual_seed(0))
    x = double(torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    prepared = nodes(circuit, Drives.for_circuit(circuit, {"x": x}))
    states = dict(settle("network", prepared, Tolerance(1e-3, 50)).states)
    with Products() as products:
        sweep_once(prepared, states)
    between = sum(a * b for a, b in itertools.pairwise(sizes[1:]))
    assert products.count == 2 * 5 * between


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_sweeps_do_not_grow_with_width(depth: int) -> None:
    def sweeps(width: int, seed: int) -> int:
        circuit = deep_network((20, *[width] * depth, 5), torch.Generator().manual_seed(seed))
        prepared = nodes(circuit, Drives.for_circuit(circuit))
        found = settle("network", prepared, Tolerance(1e-6, 200)).relaxation
        assert found.converged
        return found.sweeps

    narrow, wide = (max(sweeps(width, seed) for seed in range(3)) for width in (16, 512))
    assert wide <= narrow <= 30


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_its_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = importlib.import_module("benchmarks.resistive")
    assert benchmark.main(["--quick", "--inputs", "16", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "resistive.json").read_text())
    assert [(r["hidden layers"], r["width"]) for r in found["rows"]] == [(1, 16), (1, 64), (3, 16), (3, 64)]
    assert all(r["settled"] and r["sweeps"] > 0 for r in found["rows"])
    assert (tmp_path / "resistive.png").read_bytes().startswith(b"\x89PNG")
    assert "to its products" in capsys.readouterr().out
