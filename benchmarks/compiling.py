"""How long ``convert`` takes, by the size and shape of the graph, and how often it copies a weight."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.speed.progress import watched
from benchmarks.speed.result import Goal, Options, Result, Row
from benchmarks.speed.timing import Race, race
from examples import command

DESCRIPTION = """
The seconds of convert() for torchvision's ResNet-152, for a perceptron of 1,000 layers, and for graphs of several
shapes with 100 to 3,000 nodes, verification of every block included; the same in traces by torch.fx, the least that a
compiler must do; and how often each weight is copied. Times of one shape are taken in turn, in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/compiling.py
"""
SIZES, QUICK_SIZES = (100, 300, 1000, 3000), (20, 60)
WIDTH = 8

# --- graphs -----------------------------------------------------------------------------------------------


class Graph(nn.Module):
    """Linear layers, joined as ``run`` says."""

    def __init__(self, layers: int, run: Callable[[nn.ModuleList, Tensor], Tensor], width: int = WIDTH) -> None:
        super().__init__()
        self.layers, self.run = nn.ModuleList(nn.Linear(width, width) for _ in range(layers)), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layers, x)


def chain(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = torch.relu(layer(x))
    return x


def residual(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = x + torch.relu(layer(x))
    return x


def branches(layers: nn.ModuleList, x: Tensor) -> Tensor:
    return torch.cat([torch.relu(layer(x)) for layer in layers], 1)


def inception(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Four branches, joined and joined again."""
    for i in range(0, len(layers), 4):
        joined = torch.cat([torch.relu(layer(x)) for layer in layers[i : i + 4]], 1)
        x = joined.view(-1, 4, WIDTH).mean(1)
    return x


def convolutions(nodes: int) -> nn.Module:
    """Convolution, norm and activation in place, again and again."""
    parts = [
        m
        for _ in range(nodes // 3)
        for m in (nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    ]
    return common.as_trained(nn.Sequential(*parts))


SHAPES: dict[str, Callable[[int], nn.Module]] = {
    "chain": lambda n: Graph(n // 2, chain),
    "residual chain": lambda n: Graph(n // 3, residual),
    "convolutions with norms": convolutions,
    "wide, one concatenation": lambda n: Graph(n // 2, branches),
    "wide and deep": lambda n: Graph(4 * (n // 11), inception),
}


def perceptron(quick: bool) -> nn.Module:
    return Graph(20 if quick else 1000, chain, WIDTH if quick else 64)


def resnet(quick: bool) -> nn.Module | None:
    """torchvision's, where that is installed; its build for CUDA imports on a CPU only once these operators are
    declared.
    """
    try:
        import torchvision
    except ImportError:
        return None
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
        import torchvision
    models = torchvision.models
    return common.as_trained((models.resnet18 if quick else models.resnet152)(weights=None))


_DECLARED: list[Any] = []
"""Declarations end with their library object."""

# --- copies -----------------------------------------------------------------------------------------------


class Copies(TorchDispatchMode):
    """The elements of parameters that operations copy, by the type of the copy."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.total = sum(p.numel() for p in model.parameters())
        self.memory = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.copied: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.clone, torch.ops.aten._to_copy) and self._is_ours(args[0]):
            self.copied[out.dtype] = self.copied.get(out.dtype, 0) + out.numel()
            if out.dtype == args[0].dtype:  # a copy of a copy is one more
                self.memory.add(out.untyped_storage().data_ptr())
        return out

    def _is_ours(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.memory

    def times(self, dtype: torch.dtype) -> float:
        return self.copied.get(dtype, 0) / self.total


def copies(model: nn.Module, copy: bool) -> tuple[float, float]:
    """How often a conversion copies each parameter, and how often it takes it in double precision to verify its
    block.
    """
    with Copies(model) as counted:
        converted(model, copy=copy)
    return counted.times(torch.float32), counted.times(torch.float64)


# --- measurements -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """A network that must convert within so many seconds."""

    name: str
    make: Callable[[bool], nn.Module | None]
    seconds: float


LIMITS = (Limit("ResNet-152", resnet, 5.0), Limit("perceptron of 1,000 layers", perceptron, 10.0))
FLAT = 1.5
"""The time of a node in the largest graph, in that of a node in the smallest."""


def converted(model: nn.Module, copy: bool = True) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        fc.convert(model, copy=copy)


def nodes_of(model: nn.Module) -> int:
    return sum(n.op.startswith("call") for n in fx.symbolic_trace(model).graph.nodes)


def run(options: Options) -> Result:
    converted(nn.Linear(2, 2))  # what is done once a process
    cases = [*LIMITS, *SHAPES]
    rows: list[Row] = []
    for case in watched(cases, options, lambda c: c.name if isinstance(c, Limit) else c):
        rows += _limited(case, options) if isinstance(case, Limit) else _by_size(case, options)
    missing = [
        f"{limit.name} was left out: torchvision is not installed." for limit in LIMITS if not _of(limit.name, rows)
    ]
    return Result(rows, [*_goals(rows)], ["Nodes are the calls of the traced graph.", *missing])


def _of(network: str, rows: Sequence[Row]) -> list[Row]:
    return [r for r in rows if r["network"] == network]


def _goals(rows: Sequence[Row]) -> list[Goal]:
    def slowest(network: str) -> float | None:
        return max((r["seconds"] for r in _of(network, rows)), default=None)

    growth = max(r["growth"] for r in rows if r["growth"] != "")
    return [
        *(Goal(f"seconds to convert {limit.name}", slowest(limit.name), limit.seconds) for limit in LIMITS),
        Goal("time of a node in the largest graph in that in the smallest, the worst shape", growth, FLAT),
        Goal("copies of a parameter", max(r["copies"] for r in rows), 1.0),
        Goal("copies of a parameter with copy=False", max(r["copies, shared"] for r in rows), 0.0),
    ]


def _limited(limit: Limit, options: Options) -> list[Row]:
    torch.manual_seed(options.seed)
    model = limit.make(options.quick)
    return [] if model is None else _rows(limit.name, [model], options.times())


def _by_size(shape: str, options: Options) -> list[Row]:
    """One shape at every size: the time of a node in that of a node of the smallest graph."""
    torch.manual_seed(options.seed)
    nets = [SHAPES[shape](n) for n in (QUICK_SIZES if options.quick else SIZES)]
    return _rows(shape, nets, options.times(3))


def _rows(name: str, nets: Sequence[nn.Module], repeats: int) -> list[Row]:
    """A row a network: its conversion and its trace, all in turn."""
    works: dict[str, Callable[[], object]] = {}
    for i, net in enumerate(nets):
        works |= {f"convert {i}": partial(converted, net), f"trace {i}": partial(fx.symbolic_trace, net)}
    found, counts = race(works, repeats), [nodes_of(net) for net in nets]
    growth = [found.ratio(f"convert {i}", "convert 0").median * counts[0] / n for i, n in enumerate(counts)]
    return [_row(name, net, found, i, counts[i], growth[i] if len(nets) > 1 else "") for i, net in enumerate(nets)]


def _row(name: str, net: nn.Module, found: Race, place: int, nodes: int, growth: float | str) -> Row:
    spread, taken = found.ratio(f"convert {place}", f"trace {place}"), found.milliseconds(f"convert {place}")
    once, double = copies(net, copy=True)
    return {
        "network": name,
        "nodes": nodes,
        "seconds": taken / 1e3,
        "ms a node": taken / nodes,
        "growth": growth,
        "ratio": spread.median,
        "lower": spread.lower,
        "upper": spread.upper,
        "rounds": spread.rounds,
        "copies": once,
        "copies, shared": copies(net, copy=False)[0],
        "in double": double,
    }


# --- the command ------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    p = common.parser("compiling.py", DESCRIPTION)
    p.add_argument("--repeats", type=command.whole, default=7, help="times that each is timed")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    asked = Options(options.quick, "cpu", torch.get_num_threads(), options.repeats, options.seed, progress=True)
    result = run(asked)
    shown = [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()} for row in result.rows]
    common.finish(options, "compiling", shown, [*map(str, result.goals), *result.notes])
    return 0 if options.quick or all(g.met for g in result.goals) else 1


if __name__ == "__main__":
    command.run(main)
