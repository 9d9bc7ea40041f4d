"""Is an ideal chip the torch executor, and what does emulating a real one cost?"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from examples import command, networks, plotting, records
from ffebm_compiler.chip.emulate import Range
from ffebm_compiler.chip.hardware.presets import preset
from ffebm_compiler.estimate import Estimate, FreePhase
from ffebm_compiler.estimate.literal import nudged_equilibrium
from ffebm_compiler.solve import Tolerance

DESCRIPTION = """
1. Ideal hardware against the torch executor, each at the default tolerance of the type: a perceptron, a VGG with max
   pooling and a residual network, in blocks of 1, 2, 3 and 6 layers, at loop gains of 0.01, 0.1 and 0.25. The largest
   difference of a state, relative to the largest of its bank; and the worst cosine of all parameters' gradients,
   against the executor's two nudged states, subtracted, at the chip's nudge (same nudge: 0.02 of an output's range),
   and against its default, a nudge of 1e-8 without cancellation (tiny nudge: the chip's is 1e-7 of the range). A chip
   nudges each sample for itself, so gradients are summed over a few samples, one at a time. "response" is the least
   that a nudge of 0.02 moves the states of a bank, relative to its largest: it falls with the product of the reverse
   gains, and two states that are subtracted can't tell less than what they are relaxed to. A comparison counts where
   the response is 1e3 times the tolerance at least, which is never in float32: there gradients are not compared, and at
   the default loop gain not in deep blocks either. A chip that is to learn needs a larger loop gain.
2. The time of an inference on emulated chips relative to the executor's, both made to take the executor's sweeps; timed
   in turn, medians. CPU time of one thread, so that whatever else the machine does takes no part. settling_time is None
   for all chips: a transient has no counterpart in the executor. Blocks of one layer have no feedback and nothing to
   relax: the noise and the conversions of a layer then stand beside a single product with its weights, and are shown,
   but not judged.

Ends with exit code 1 if a state differs by more than 1e-5, a cosine is below 0.9999, or an inference with feedback
takes more than 4 times as long.

    python benchmarks/emulation.py
"""
STATES, COSINE, SLOWEST = 1e-5, 0.9999, 4.0
SAME, TINY = 0.02, 1e-7
TELLING = 1e3 * Tolerance().of(torch.float64)
"""A response to a nudge that two relaxed states can be subtracted to see."""
TYPES = {"float32": torch.float32, "float64": torch.float64}
PRESETS = ("ideal", "rram", "pcm", "harsh")


# --- the networks -----------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two residual pairs of convolutions, average pooling, a classifier."""

    def __init__(self, width: int, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first, self.second, self.third, self.fourth = (nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.pool, self.classifier = nn.AvgPool2d(4), nn.Linear(width * 16, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        h = torch.relu(h + self.second(torch.relu(self.first(h))))
        h = torch.relu(h + self.fourth(torch.relu(self.third(h))))
        return self.classifier(self.pool(h).flatten(1))  # type: ignore[no-any-return]


def perceptron(inputs: int, width: int) -> nn.Sequential:
    layers = (
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.ReLU(),
    )
    return nn.Sequential(*layers, nn.Linear(width, 10))  # fmt: skip


def cases(options: argparse.Namespace) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    """Name, network, images, labels."""
    generator = torch.Generator().manual_seed(options.seed)
    width, batch = options.width, options.batch
    for name, net, shape in (
        ("perceptron", networks.initialise(perceptron(49 * width, 16 * width), "relu", generator), (49 * width,)),
        ("VGG", networks.vgg(10, generator, (width, 2 * width, 4 * width)), (3, 32, 32)),
        ("residual", networks.initialise(Residual(width), "relu", generator), (3, 16, 16)),
    ):
        x = torch.randn(batch, *shape, generator=generator)
        yield name, net.eval(), x, torch.randint(0, 10, (batch,), generator=generator)


# --- ideal hardware against the executor ------------------------------------------------------------------


def agreement(name: str, net: nn.Module, x: Tensor, y: Tensor, size: int, loop_gain: float) -> list[dict[str, Any]]:
    """A row a type: the same program on an ideal chip and in the executor."""
    rows = []
    for kind, dtype in TYPES.items():
        model = fc.convert(copy.deepcopy(net).to(dtype), block_size=size, loop_gain=loop_gain)
        images = x.to(dtype)
        chip = model.lower("analog-emu", hardware="ideal").calibrate(images)
        (_, expected), (_, found) = model.equilibrium(images), chip.equilibrium(images)
        apart = max(difference(f.states, e.states) for f, e in zip(found, expected, strict=True))
        cosines, response = gradient_cosines(model, images[:SAMPLES], y[:SAMPLES]) if kind == "float64" else ({}, 0.0)
        judged = {k: v for k, v in cosines.items() if response * NUDGES[k] / SAME >= TELLING}
        failing = ["states"] * (not apart <= STATES) + [k for k, v in judged.items() if not v >= COSINE]
        rows.append(
            {
                "network": name,
                "blocks": "/".join(str(b.size) for b in model.blocks),
                "loop gain": loop_gain,
                "type": kind,
                "sweeps": max(e.relaxation.sweeps for e in expected),
                "states": f"{apart:.1e}",
                "response": f"{response:.1e}" if cosines else "",
                **{k: f"{v:.8f}" if k in judged else UNTOLD for k, v in cosines.items()},
                "verdict": ", ".join(failing) or "ok",
            }
        )
    return rows


SAMPLES = 3
UNTOLD = "not told"
NUDGES = {"same nudge": SAME, "tiny nudge": TINY}


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    return max(float((found[n] - e).abs().max() / e.abs().max().clamp(min=1e-30)) for n, e in expected.items())


@dataclasses.dataclass(frozen=True)
class AsOnChip:
    """The executor's two nudged phases, subtracted, at the nudge that a chip takes: a part of the output's calibrated
    range.
    """

    nudge: float
    ranges: Mapping[str, Range]
    responses: list[float] = dataclasses.field(default_factory=list)

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        beta = self.nudge * min(self.ranges[n].high for n in errors)
        largest = max(float(e.abs().max()) for e in errors.values())
        plus, minus = (nudged_equilibrium(free, errors, sign * beta / largest)[0] for sign in (1, -1))
        self.responses.append(
            min(float((plus[n] - minus[n]).abs().max() / s.abs().max()) for n, s in free.states.items())
        )
        return fc.CenteredEP(beta=beta, subtract=True)(free, errors, wanted)


def gradient_cosines(model: fc.FFEBM, x: Tensor, y: Tensor) -> tuple[dict[str, float], float]:
    """The worst over all parameters between an ideal chip and the executor, and the least response to the same
    nudge.
    """
    found, responses = {}, list[float]()
    for label, nudge in NUDGES.items():
        chip = model.lower("analog-emu", hardware=fc.Hardware(nudge=nudge)).calibrate(x)
        estimator = AsOnChip(nudge, chip.chip.ranges, responses) if nudge == SAME else fc.CenteredEP()
        with model.using(estimator=estimator):
            expected, delivered = gradients(model, x, y), gradients(chip, x, y)
        found[label] = min(cosine(delivered[n], g) for n, g in expected.items())
    return found, min(responses)


def gradients(model: fc.FFEBM, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of the summed loss, one sample at a time."""
    model.zero_grad()
    for k in range(len(x)):
        F.cross_entropy(model(x[k : k + 1]), y[k : k + 1]).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def cosine(a: Tensor, b: Tensor) -> float:
    norms = float(a.norm() * b.norm())
    return float((a * b).sum()) / norms if norms else float(bool((a == b).all()))


# --- time -------------------------------------------------------------------------------------------------


def timing(name: str, net: nn.Module, x: Tensor, size: int, repeats: int) -> list[dict[str, Any]]:
    """A row a chip."""
    model = fc.convert(net, block_size=size)
    with torch.no_grad():
        model(x)
    sweeps = max(r.sweeps for r in model.relaxation)
    rows = []
    for chip_name in PRESETS:
        hardware = dataclasses.replace(preset(chip_name), settling_time=None)
        chip = model.lower("analog-emu", hardware=hardware).calibrate(x)
        with fixed(model, sweeps), fixed(chip, sweeps):
            emulated, ratio = in_turn(chip, model, x, repeats)
            taken = [max(r.sweeps for r in m.relaxation) for m in (model, chip)]
        rows.append(
            {
                "network": name,
                "blocks": "/".join(str(b.size) for b in model.blocks),
                "chip": chip_name,
                "sweeps, executor": taken[0],
                "chip's": taken[1],
                "inference ms": f"{1e3 * emulated:.1f}",
                "to executor": f"{ratio:.2f}",
            }
        )
    return rows


def slowest(rows: Sequence[dict[str, Any]]) -> str:
    return f"{max((float(r['to executor']) for r in rows), default=0.0):.2f}"


def fixed(model: fc.FFEBM, sweeps: int) -> Any:
    """So many sweeps, whatever the residual: what a noisy and an ideal relaxation can be compared at."""
    return model.using(tolerance=1e-30, max_sweeps=sweeps)


def in_turn(chip: nn.Module, model: nn.Module, x: Tensor, repeats: int) -> tuple[float, float]:
    """Median CPU time of the chip in seconds, and median of its ratio to the executor's."""

    def seconds(work: Callable[[Tensor], Any]) -> float:
        begun = time.process_time()
        for _ in range(rounds):
            work(x)
        return (time.process_time() - begun) / rounds

    rounds = 1
    with torch.no_grad():
        chip(x)
        rounds = max(1, round(0.05 / max(seconds(model), 1e-4)))
        pairs = [(seconds(chip), seconds(model)) for _ in range(repeats)]
    return statistics.median(c for c, _ in pairs), statistics.median(c / m for c, m in pairs)


# --- the command ------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    p = common.parser("emulation.py", DESCRIPTION)
    whole = command.listed(command.whole)
    p.add_argument(
        "--block-sizes", type=whole, default=[1, 2, 3, 6], metavar="N,...", help="weighted layers of a block"
    )
    p.add_argument(
        "--loop-gains",
        type=command.listed(command.positive),
        default=[0.01, 0.1, 0.25],
        metavar="X,...",
        help="bounds on each coupling's loop gain",
    )
    p.add_argument(
        "--width",
        type=command.whole,
        default=16,
        help="channels of the first stage; the perceptron's layers have 16 times as many neurons",
    )
    p.add_argument("--batch", type=command.whole, default=32, help="images a batch")
    p.add_argument("--repeats", type=command.whole, default=5, help="times that each is timed")
    return p  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.quick:
        options.block_sizes, options.loop_gains, options.width, options.batch, options.repeats = (
            [2],
            [0.1],
            4,
            4,
            1,
        )
    torch.set_num_threads(options.threads or 1)
    rows: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    total = 3 * len(options.block_sizes) * (len(options.loop_gains) + 1)
    with tqdm(total=total, desc="comparisons", leave=False, disable=None) as bar, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", fc.ConvergenceWarning
        )  # sweeps are limited on purpose; what differs is in the table
        for name, net, x, y in cases(options):
            for size in options.block_sizes:
                for loop_gain in options.loop_gains:
                    rows += agreement(name, net, x[:AGREEING], y, size, loop_gain)
                    bar.update()
                times += timing(name, net, x, size, options.repeats)
                bar.update()
    print(records.table(times))
    failing = [r for r in rows if r["verdict"] != "ok"]
    told = [float(r[k]) for r in rows for k in NUDGES if r.get(k, UNTOLD) != UNTOLD]
    relaxing = [r for r in times if r["sweeps, executor"] > 1]
    slow = [r for r in relaxing if float(r["to executor"]) > SLOWEST]
    notes = [
        f"{len(rows) - len(failing)} of {len(rows)} comparisons agree: states within {STATES:g}; of "
        f"{len(told)} gradients that a chip can tell, the worst cosine is {min(told, default=1.0):.8f}",
        f"{len(relaxing) - len(slow)} of {len(relaxing)} inferences with feedback take at most {SLOWEST:g} "
        f"times as long as the executor's; the slowest {slowest(relaxing)}; without feedback {slowest(times)}",
        f"batch {options.batch}, {torch.get_num_threads()} thread(s), medians of {options.repeats}; plot in "
        f"{draw(times, options.out / 'emulation.png')}",
    ]
    common.finish(options, "emulation", rows, notes, times=times)
    return 1 if failing or (slow and not options.quick) else 0


AGREEING = 8
"""Samples whose states are compared."""


def draw(times: Sequence[dict[str, Any]], path: Path) -> Path:
    names = list(dict.fromkeys(r["network"] for r in times))
    picture, axes = plotting.figure(len(names), 4.2)
    for axis, name in zip(axes, names, strict=True):
        for chip in PRESETS:
            chosen = [r for r in times if r["network"] == name and r["chip"] == chip]
            axis.plot(
                [r["blocks"] for r in chosen], [float(r["to executor"]) for r in chosen], "o-", markersize=4, label=chip
            )
        axis.axhline(SLOWEST, color="black", linewidth=0.8, linestyle=":")
        axis.set(title=name, xlabel="blocks", ylabel="inference, relative to the executor's", ylim=(0, None))
        axis.tick_params(axis="x", labelrotation=20, labelsize=7)
    axes[0].legend(frameon=False, fontsize=8)
    return plotting.save(picture, path)


if __name__ == "__main__":
    command.run(main)
