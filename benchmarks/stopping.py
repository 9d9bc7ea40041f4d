"""Does a relaxation end within its tolerance? Random small blocks against equilibria found to 1e-14, in float64.

A block is two to seven dense layers, some with a skip connection, of ReLU, tanh, hardtanh and sigmoid; weights and
biases extend over three to four decades, loop gains from 0.01 to 0.2, tolerances from 0.1 to 1e-8. A relaxation that
has converged must be within its tolerance of the equilibrium, relative to the largest value of each state. So must a
displacement under nudges of very different size, at the tolerance of nudged phases.

    python -m benchmarks.stopping
    python -m benchmarks.stopping --blocks 200 --seed 5000
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import ffebm_compiler as fc
from benchmarks import common
from examples import command
from ffebm_compiler.solve import EXPLICIT, Relaxation, Tolerance, displace

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (torch.relu, torch.tanh, functional.hardtanh, torch.sigmoid)
LOOP_GAINS = (0.01, 0.01, 0.05, 0.1, 0.2)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 4e-6, 1e-8)
NUDGE = 1e-3
EXACT = Tolerance(1e-14, 3000)
ROUNDINGS = 1e-13
QUICK_BLOCKS = 20


class Draw:
    """Numbers that follow from a seed."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


class Layers(nn.Module):
    """Dense layers; the third reads the first's output beside the second's where their widths agree."""

    def __init__(self, draw: Draw):
        super().__init__()
        depth = draw.whole(2, 8)
        widths = [draw.whole(1, 9) for _ in range(depth + 1)]
        if depth >= 3 and draw.uniform() < 0.4:
            widths[3] = widths[1]
        self.layers = nn.ModuleList(nn.Linear(a, b).double() for a, b in pairwise(widths))
        only_relu = draw.whole(0, 3) == 0
        self.activations = [ACTIVATIONS[0 if only_relu else draw.whole(0, len(ACTIVATIONS))] for _ in self.layers]
        self.skips = depth >= 3 and widths[3] == widths[1]
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(draw.normal(*layer.weight.shape) * 10 ** (3 * draw.uniform() - 2))
                layer.bias.copy_(draw.normal(*layer.bias.shape) * 10 ** (4 * draw.uniform() - 2))
        self.x = draw.normal(draw.whole(1, 5), widths[0])

    def forward(self, x: Tensor) -> Tensor:
        first = x
        for i, (layer, activation) in enumerate(zip(self.layers, self.activations)):
            x = layer(x) + first if self.skips and i == 2 else layer(x)
            x = activation(x)
            first = x if i == 0 else first
        return x


@dataclass(frozen=True)
class Outcome:
    """One relaxation that converged: how far it is off, in tolerances, and its sweeps."""

    phase: str
    off: float
    sweeps: int


def outcomes(seed: int) -> list[Outcome]:
    """Those of one random block."""
    draw = Draw(seed)
    network = Layers(draw)
    loop_gain, tolerance = LOOP_GAINS[draw.whole(0, 5)], TOLERANCES[draw.whole(0, 7)]
    model = fc.convert(network, len(network.layers), loop_gain=loop_gain, verify=False).eval()
    with model.using(tolerance=EXACT.residual, max_sweeps=EXACT.max_sweeps):
        _, (exact,) = model.equilibrium(network.x)
    with model.using(tolerance=tolerance):
        _, (settled,) = model.equilibrium(network.x)
    free = outcome("free phase", settled.states, exact.states, settled.relaxation, tolerance)

    (block,) = model.program.energy_blocks
    linear = EXPLICIT.linearise(model.block_call(block, dict(exact.inputs)).bound, exact.states)
    *inner, last = (s.name for s in block.states)
    nudged = [last, *(n for n in inner if draw.uniform() < 0.3)]
    errors = {n: draw.normal(*exact.states[n].shape) * 10 ** (4 * draw.uniform() - 3) for n in nudged}
    right, _ = displace(linear, errors, NUDGE, Tolerance(1e-15, EXACT.max_sweeps), tangent=True)
    moved, record = displace(linear, errors, NUDGE, Tolerance(tolerance), tangent=True)
    asked = Tolerance(tolerance).nudged(torch.float64)
    return [*free, *outcome("displacement", moved, right, record, asked)]


def outcome(
    phase: str, states: Mapping[str, Tensor], exact: Mapping[str, Tensor], record: Relaxation, tolerance: float
) -> list[Outcome]:
    """None where the relaxation says itself that it has not converged."""
    if not record.converged:
        return []
    off = max(float((states[n] - s).abs().max() / s.abs().max().clamp_min(1e-300)) for n, s in exact.items())
    return [Outcome(phase, max(0.0, off - ROUNDINGS) / tolerance, record.sweeps)]


def row(phase: str, measured: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "phase": phase,
        "converged": len(measured),
        "off by more than the tolerance": sum(o.off > 1 for o in measured),
        "worst, in tolerances": round(max(o.off for o in measured), 3),
        "mean sweeps": round(sum(o.sweeps for o in measured) / len(measured), 2),
    }


def parser() -> argparse.ArgumentParser:
    p = common.parser("stopping.py", __doc__ or "")
    p.add_argument("--blocks", type=command.whole, default=2000, help="random blocks, from --seed on")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    warnings.simplefilter("ignore", fc.ConvergenceWarning)
    seeds = range(options.seed, options.seed + (QUICK_BLOCKS if options.quick else options.blocks))
    measured = [o for seed in tqdm(seeds, desc="blocks", leave=False, disable=None) for o in outcomes(seed)]
    rows = [row(p, [o for o in measured if o.phase == p]) for p in ("free phase", "displacement")]
    broken = sum(o.off > 1 for o in measured)
    verdict = f"{'MISSED' if broken else 'met'} relaxations off by more than their tolerance: {broken}, at most 0"
    common.finish(options, "stopping", rows, [verdict])
    return 1 if broken else 0


if __name__ == "__main__":
    command.run(main)
