"""Do the ONNX graphs of digital parts compute what PyTorch does? The whole zoo of the tests, forward, training and
vector-Jacobian products.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the zoo
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

from models import ZOO, Entry

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.graph_checks import check_graph
from benchmarks.parity import compare
from examples import command
from ffebm_compiler.errors import OptionError
from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.onnx import KINDS, ExportedPart
from ffebm_compiler.onnx.parts import export_parts
from ffebm_compiler.train import run_digital

DESCRIPTION = """
Converts every model of the tests' zoo, exports every digital part of both modes, has onnx's checker check each graph
with full shape inference, and runs it in onnxruntime at another batch size than it was exported at, against the part in
PyTorch: outputs, running statistics, and the vector-Jacobian products in inputs and parameters, relative to the largest
of each kind. Exit code 1 if a graph is refused, invalid or differs by more than 1e-5.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/onnx_parts.py
"""
AGREES = 1e-5
FEW = ("vgg_norm", "dropout_layers", "views")


@dataclass
class Tally:
    """What was found of one model."""

    parts: int = 0
    graphs: int = 0
    agree: int = 0
    refused: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.worst: dict[str, float] = {}

    def note(self, errors: Mapping[str, float]) -> None:
        self.graphs += 1
        self.agree += max(errors.values(), default=0.0) <= AGREES
        for what, error in errors.items():
            self.worst[what] = max(error, self.worst.get(what, 0.0))

    def row(self, name: str) -> dict[str, Any]:
        kinds = {
            "outputs": "outputs",
            "statistics": "statistics",
            "values": "vjp, inputs",
            "parameters": "vjp, parameters",
        }
        shown = {title: f"{self.worst[k]:.1e}" if k in self.worst else "" for k, title in kinds.items()}
        counts = {"parts": self.parts, "graphs": self.graphs, "refused": self.refused}
        return {"model": name, **counts, **shown, "export s": f"{self.seconds:.1f}"}


def parser() -> argparse.ArgumentParser:
    p = common.parser("onnx_parts.py", DESCRIPTION)
    p.add_argument(
        "--block-sizes",
        type=command.listed(command.whole),
        default=[1, 2],
        metavar="N,...",
        help="weighted layers of a block",
    )
    p.add_argument("--models", type=command.listed(str), metavar="NAME,...", help="of the zoo; all if not given")
    return p


def larger(args: Any, generator: torch.Generator) -> Any:
    """The same arguments in a larger batch."""

    def batch(x: Tensor) -> Tensor:
        found = torch.cat([x, x.flip(0), x[:1]])
        return found + 0.1 * torch.randn(found.shape, generator=generator) if x.is_floating_point() else found

    return tree_map_only(Tensor, batch, args)


def values_of(model: fc.FFEBM, args: Any) -> dict[str, Any]:
    """Every value of the present mode's program, the blocks without feedback."""
    with torch.no_grad():
        values = model.bind_inputs(args, {})
        for step in model.program:
            if isinstance(step, EnergyBlock):
                found = runner_of(model).bound(step, values).feedforward()
                values.update({n: found[n] for n in step.outputs})
            else:
                values.update(run_digital(step, model.network, values))
    return values


def exported(model: fc.FFEBM, args: Any, training: bool, tally: Tally) -> tuple[ExportedPart, ...]:
    model.train(training)
    values = values_of(model, args)
    start = time.process_time()
    parts = export_parts(model.program, model.network, values, KINDS[training])
    tally.seconds += time.process_time() - start
    return parts


def measure(entry: Entry, size: int, seed: int, notes: list[str]) -> Tally:
    """Every graph of one model."""
    net, args = entry.build(seed)
    model = fc.convert(net, size, example_inputs=args if entry.export else None)
    tally, draw = Tally(), torch.Generator().manual_seed(seed)
    for training in KINDS:
        parts = exported(model, args, training, tally)
        values = values_of(model, larger(args, draw))
        tally.parts = max(tally.parts, len(parts))
        for part in parts:
            tally.refused += len(part.refused)
            notes += [f"{entry.name}: {r.part}, {r.kind}: {r.operation}: {r.reason}" for r in part.refused]
            for graph in part:
                tally.note(_errors(graph, part.name, model, values, draw, notes))
    return tally


def _errors(
    graph: Any, name: str, model: fc.FFEBM, values: Any, draw: torch.Generator, notes: list[str]
) -> Mapping[str, float]:
    try:
        check_graph(graph)
    except OptionError as failure:
        notes.append(str(failure))
        return {"outputs": float("inf")}
    return compare(graph, name, model.program, model.network, values, draw).errors


def chosen(options: argparse.Namespace) -> Iterator[tuple[Entry, int]]:
    """Models and block sizes; those of some hundred million weights at the largest size only."""
    names = options.models or (FEW if options.quick else [e.name for e in ZOO])
    for entry in ZOO:
        if entry.name in names and entry.installed:
            yield from ((entry, s) for s in options.block_sizes if not entry.heavy or s == max(options.block_sizes))


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    rows, notes, total, agree = [], list[str](), 0, 0
    for entry, size in tqdm(list(chosen(options)), desc="models"):
        tally = measure(entry, size, options.seed, notes)
        rows.append(tally.row(f"{entry.name}, blocks of {size}"))
        total, agree = total + tally.graphs + tally.refused, agree + tally.agree
    notes.append(f"{agree} of {total} graphs agree within {AGREES:g}")
    common.finish(options, "onnx_parts", rows, notes)
    return 0 if agree == total else 1


if __name__ == "__main__":
    command.run(main)
