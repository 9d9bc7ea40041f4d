"""How many sweeps, and how much time, does a nonlinear resistive network take to settle?"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

from benchmarks import common
from benchmarks.random_networks import deep_network, double
from examples import command, plotting
from ffebm_compiler.chip.hardware.circuit import Circuit
from ffebm_compiler.chip.resistive.network import Drives
from ffebm_compiler.chip.resistive.solver import Node, nodes, settle, sweep_once
from ffebm_compiler.solve import Tolerance

DESCRIPTION = """
Sweeps of exact block coordinate descent until the voltages of a random deep resistive network are within a relative
error of 1e-6, over width and depth, and the time of a sweep relative to a feedforward pass through the same matrices
(that of the inputs included) and to its own products: one with each matrix between banks and one with its transpose,
the complexity of the published algorithm (Scellier 2024, arXiv 2402.11674). Networks as published: inputs doubled, half
of the hidden nodes excitatory.

Ends with exit code 1 if a network does not settle within a hundred sweeps, or if a sweep of a network with the widest
hidden layers takes more than twice the time of its products.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/resistive.py
"""
ERROR, MOST_SWEEPS, MOST_OVERHEAD = 1e-6, 100, 2.0


def parser() -> argparse.ArgumentParser:
    p = common.parser("resistive.py", DESCRIPTION)
    widths, depths = [16, 32, 64, 128, 256, 512, 1024, 2048], [1, 2, 3, 4]
    whole = command.listed(command.whole)
    p.add_argument("--widths", type=whole, default=widths, metavar="N,...", help="nodes of a hidden layer, even")
    p.add_argument("--depths", type=whole, default=depths, metavar="N,...", help="hidden layers")
    p.add_argument("--inputs", type=command.whole, default=784, help="inputs, before doubling")
    p.add_argument("--gain", type=command.positive, default=1.0, help="voltage gain of the amplifiers between layers")
    p.add_argument("--batch", type=command.whole, default=64, help="samples solved at once")
    p.add_argument("--repeats", type=command.whole, default=7, help="times that each is timed")
    return p


def feedforward(circuit: Circuit, prepared: Sequence[Node], x: Tensor) -> Callable[[], Any]:
    """One pass from the inputs to the outputs through every matrix."""
    first = [(e.target, e.gain * e.positive) for e in circuit.edges if e.source == "x"]

    def run() -> None:
        states = {n: torch.relu(x @ matrix.T) for n, matrix in first}
        for node in prepared:
            for source, matrix in node.below:
                states[node.name] = torch.relu(states[source] @ matrix.T)

    return run


def products(prepared: Sequence[Node], states: dict[str, Tensor]) -> Callable[[], Any]:
    """What the published complexity counts: a product with each matrix between banks, and with its transpose."""

    def run() -> None:
        for node in prepared:
            for source, matrix in node.below:
                states[source] @ matrix.T
            for consumer, matrix, _ in node.above:
                states[consumer] @ matrix

    return run


def milliseconds(works: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """The median time of each, all timed in turn after a first run."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 1):
        for work, found in zip(works, times, strict=True):
            begun = time.perf_counter()
            work()
            found.append(1e3 * (time.perf_counter() - begun))
    return [statistics.median(found[1:]) for found in times]


def measure(options: argparse.Namespace, depth: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(options.seed)
    sizes = (options.inputs, *[width] * depth, 10)
    circuit = deep_network(sizes, generator, options.gain, dtype=torch.float32)
    x = double(torch.randn(options.batch, options.inputs, generator=generator))
    prepared = nodes(circuit, Drives.for_circuit(circuit, {"x": x}))
    found = settle(circuit.block, prepared, Tolerance(ERROR, MOST_SWEEPS))
    states = dict(found.states)
    works = (lambda: sweep_once(prepared, states), feedforward(circuit, prepared, x), products(prepared, states))
    with torch.no_grad():
        sweep, forward, product = milliseconds(works, options.repeats)
    return {
        "hidden layers": depth,
        "width": width,
        "resistors": sum(int((e.positive > 0).sum()) for e in circuit.edges),
        "sweeps": found.relaxation.sweeps,
        "settled": found.relaxation.converged,
        "sweep ms": f"{sweep:.3g}",
        "to feedforward pass": f"{sweep / forward:.2f}",
        "to its products": f"{sweep / product:.2f}",
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    if options.quick:
        options.widths, options.depths, options.batch, options.repeats = [16, 64], [1, 3], 8, 2
    cases = [(d, w + w % 2) for d in sorted(set(options.depths)) for w in sorted(set(options.widths))]
    rows = [measure(options, d, w) for d, w in tqdm(cases, desc="networks", leave=False, disable=None)]
    picture = draw(rows, options.out / "resistive.png", options.batch)
    notes = [
        f"batch {options.batch}, {torch.get_num_threads()} threads, medians of {options.repeats}; plot in {picture}"
    ]
    common.finish(options, "resistive", rows, notes)
    widest = [r for r in rows if r["width"] == max(w for _, w in cases) and r["hidden layers"] > 1]
    slow = any(float(r["to its products"]) > MOST_OVERHEAD for r in widest) and not options.quick
    return 0 if all(r["settled"] for r in rows) and not slow else 1


def draw(rows: Sequence[dict[str, Any]], path: Path, batch: int) -> Path:
    picture, (left, right) = plotting.figure(2)
    for depth in dict.fromkeys(r["hidden layers"] for r in rows):
        of_depth = [r for r in rows if r["hidden layers"] == depth]
        widths = [r["width"] for r in of_depth]
        label = f"{depth} hidden layer{'s' * (depth > 1)}"
        left.plot(widths, [r["sweeps"] for r in of_depth], "o-", markersize=3, label=label)
        right.plot(widths, [float(r["sweep ms"]) for r in of_depth], "o-", markersize=3, label=label)
    left.set(
        xlabel="nodes of a hidden layer",
        ylabel=f"sweeps to a relative error of {ERROR:g}",
        xscale="log",
        ylim=(0, None),
    )
    right.set(
        xlabel="nodes of a hidden layer", ylabel=f"time of a sweep (ms), batch of {batch}", xscale="log", yscale="log"
    )
    for axis in (left, right):
        axis.set_xticks(sorted({r["width"] for r in rows}), [str(w) for w in sorted({r["width"] for r in rows})])
        axis.minorticks_off()
    left.legend(frameon=False, fontsize=8)
    return plotting.save(picture, path)


if __name__ == "__main__":
    command.run(main)
