"""Does compiled code make sweeps faster?

For each block: a free phase of a fixed number of sweeps (operation by operation, and the whole phase compiled as one
graph), and a training step with torch.compile around the whole model, which compiles its digital parts. Times are
ratios to the same thing run by PyTorch, taken in turn.

    python -m benchmarks.compiled_sweeps [--quick]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.speed.timing import Race, race
from ffebm_compiler.solve import EXPLICIT, BoundBlock, States, Tolerance, relax

SWEEPS = 6


@dataclass(frozen=True)
class Case:
    """A block of three layers."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def _conv(width: int) -> nn.Module:
    layers = [m for _ in range(3) for m in (nn.Conv2d(width, width, 3, padding=1), nn.Hardtanh(0.0, 1.0))]
    return nn.Sequential(*layers)


def _pooled(width: int) -> nn.Module:
    layers = [m for _ in range(3) for m in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
    return nn.Sequential(*layers)


def _normed(width: int) -> nn.Module:
    """Norms and dropout between blocks of two layers."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.BatchNorm2d(width), nn.Dropout(0.1)]
        layers += [m for _ in range(2) for m in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers)


def _dense(width: int) -> nn.Module:
    return nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(width, width), nn.Tanh())))


CASES = (
    Case("conv 64, 16 x 16, clamp", lambda: _conv(64), (8, 64, 16, 16)),
    Case("conv 128, 16 x 16, ReLU, max pooling", lambda: _pooled(128), (8, 128, 16, 16)),
    Case("conv 64, 16 x 16, norms, dropout", lambda: _normed(64), (8, 64, 16, 16)),
    Case("dense 512, tanh", lambda: _dense(512), (64, 512)),
    Case("dense 64, tanh", lambda: _dense(64), (16, 64)),
)


def phase(bound: BoundBlock) -> Callable[[], States]:
    """A free phase of a fixed number of sweeps, by the solver."""
    stop = Tolerance(1e-30, SWEEPS)
    return lambda: relax(bound, stop, differentiation=EXPLICIT).states


def one_graph(bound: BoundBlock) -> Callable[[], States]:
    """The same sweeps and residuals as one function of the inputs, compiled."""
    block = bound.block

    def run(inputs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[States, list[Tensor]]:
        here = replace(bound, inputs=inputs, weights=weights)
        states, residuals = here.feedforward(), []
        for _ in range(SWEEPS):
            feedback = _feedback(here, states)
            new: States = {}
            for state in block.states:
                a = here.drive(state, new)
                new[state.name] = state.potential.activation(a + feedback[state.name] if state.name in feedback else a)
            moved = [(s - states[n]).abs().amax() / s.abs().amax() for n, s in new.items()]
            residuals.append(torch.stack(moved).amax())
            states = new
        return states, residuals

    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    detached = {k: v.detach() if isinstance(v, Tensor) else v for k, v in bound.inputs.items()}
    weights = {k: v.detach() for k, v in bound.weights.items()}
    return lambda: compiled(detached, weights)[0]


def _feedback(bound: BoundBlock, states: States) -> States:
    """``sum_m (w_m / w_l) J_lm^T s_m``, by one vector-Jacobian product a state."""
    total: States = {}
    for state in bound.block.states:
        sources = {n: states[n] for n in state.drive.sources}
        if sources:
            _, pull = torch.func.vjp(lambda s, state=state: bound.drive(state, s), sources)
            for n, back in pull(bound.layer_weights[state.name] * states[state.name])[0].items():
                total[n] = total[n] + back if n in total else back
    return {n: t / bound.layer_weights[n] for n, t in total.items()}


def in_a_process(place: int, rounds: int, threads: int) -> dict[str, Any]:
    """One block in a process of its own: what a compiler has met before changes what it does."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured_at, place, rounds, threads).result()


def _measured_at(place: int, rounds: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", fc.ConvergenceWarning)
    return measured(CASES[place], rounds)


def measured(case: Case, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    net = common.as_trained(case.make())
    x = torch.rand(case.shape)
    model = fc.convert(net, block_size=3, loop_gain=0.2)  # sweeps that all change the states
    _, (settled, *_) = model.equilibrium(x)
    bound = model.block_call(model.program.energy_blocks[0], settled.inputs).bound
    works = {
        "plain": phase(bound),
        "whole": one_graph(bound),
        "step": step(model, x, model),
        "step, model": step(model, x, torch.compile(model, dynamic=False)),
    }
    graphs: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for name, work in works.items():
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        seconds[name] = _taken(work)
        graphs[name] = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    digital = len(model.program.digital_blocks)
    assert graphs == {"plain": 0, "whole": 1, "step": 0, "step, model": digital}, graphs
    if not bound.block.is_routed:  # the solver holds winners that go back and forth
        _assert_same(works["plain"](), works["whole"]())
    found: Race = race(works, rounds)
    return {
        "block": case.name,
        "sweep, ms": round(found.milliseconds("plain") / SWEEPS, 3),
        "phase as one graph": _shown(found, "whole", "plain"),
        "model compiled": _shown(found, "step, model", "step"),
        "to compile the model, s": round(seconds["step, model"], 1),
        "to compile the graph, s": round(seconds["whole"], 1),
    }


def step(model: fc.FFEBM, x: Tensor, forward: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """A training step without its optimizer; ``forward`` is the model's own, or stands for it."""

    def run() -> None:
        model.zero_grad()
        forward(x).square().sum().backward()

    return run


def _taken(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _shown(found: Race, contender: str, reference: str) -> str:
    spread = found.ratio(contender, reference)
    return f"{spread.median:.2f} ({spread.lower:.2f} to {spread.upper:.2f})"


def _assert_same(a: States, b: States) -> None:
    for n, v in a.items():
        torch.testing.assert_close(b[n], v, rtol=1e-4, atol=1e-5)


def main(options: argparse.Namespace) -> int:
    common.start(options)
    warnings.simplefilter("ignore", fc.ConvergenceWarning)
    cases = CASES[-1:] if options.quick else CASES
    rounds, threads = 5 if options.quick else 25, torch.get_num_threads()
    rows = [in_a_process(CASES.index(case), rounds, threads) for case in cases]
    notes = ["Ratios to the same work without compiling: median of the rounds, and quartiles."]
    common.finish(options, "compiled_sweeps", rows, notes)
    return 0


if __name__ == "__main__":
    doc = __doc__ or ""
    sys.exit(main(common.parser(__file__, doc).parse_args()))
