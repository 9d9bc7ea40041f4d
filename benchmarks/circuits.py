"""Does the emulator compute what the circuit does? Against ngspice, block by block: voltages, gradients, settling
times, and speed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from examples import command, networks, plotting, records
from ffebm_compiler.chip.emulate import OnChip
from ffebm_compiler.chip.hardware.circuit import Circuit
from ffebm_compiler.chip.spice import difference as of_banks
from ffebm_compiler.chip.spice import find_ngspice, settling_time, solve_op, solve_tran
from ffebm_compiler.ffebm import AnalogFFEBM
from ffebm_compiler.train import free_phase

DESCRIPTION = """
Random blocks (dense of 2 to 6 layers, convolutions, skip connections; ReLU, clamp, hardtanh, tanh, sigmoid), on chips
with errors, in both physics, each on one sample, simulated by ngspice from the netlist that the emulator exports:

1. The voltages of the free phase and of both nudged phases, from .op, relative to the largest of each bank; those of
   the free phase also at the end of .tran. Where .op is not what the emulator finds, .tran decides: an operating point
   may be an unstable equilibrium.
2. The gradient of every weight from ngspice's voltages alone: outer products of the two nudged phases' voltages, summed
   over the positions of a kernel, in numpy; its cosine with what the emulator's backward() returns.
3. The settling time to 1 % from ground, .tran against the emulator's transient.
4. Speed: a fully connected block of two layers of N / 2 neurons. ngspice simulates one sample a run, so a batch takes
   it a run a sample: some runs are timed and their mean is multiplied by the size of the batch. The emulator takes the
   whole batch in one call, converters included, in float64, to a tolerance of 1e-6, as ngspice's. CPU time of one
   thread of each, of ngspice alone, without writing netlists and reading results: other work on the machine takes no
   part.

Ends with exit code 1 if a voltage differs by more than 1e-4, a cosine is below 0.999, a settling time differs by more
than 5 %, or the emulator is less than 1,000 times as fast at 128 neurons, or its advantage does not grow with size.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/circuits.py
"""
VOLTAGE, COSINE, SETTLING, FASTER, JUDGED = 1e-4, 0.999, 0.05, 1000.0, 128
NUDGE = 0.02
AT_REST = 200.0
"""Time constants after which every one of these blocks has come to rest."""
Array = np.ndarray[Any, np.dtype[np.float64]]

WRITTEN: dict[str, Any] = {"g_min": 1e-6, "levels": 32, "programming_error": 0.02}
FAULTY: dict[str, Any] = {**WRITTEN, "stuck_low": 0.02, "stuck_high": 0.005}
CHIPS: dict[str, dict[str, Any]] = {
    "ideal": {},
    "levels, programming error": WRITTEN,
    "stuck devices": FAULTY,
    "offset, gain": {"offset": 5e-3, "gain_mismatch": 0.03},
    "reverse gain": {**WRITTEN, "reverse_gain_error": 0.05},
    "two arrays": {**WRITTEN, "bidirectional": False},
    "everything": {
        **FAULTY,
        "offset": 5e-3,
        "gain_mismatch": 0.03,
        "reverse_gain_error": 0.05,
        "bidirectional": False,
        "line_resistance": 1.0,
        "drift": 0.02,
        "drift_spread": 0.01,
        "age": 3600.0,
        "headroom": 1.5,
    },
    "resistive, everything": {
        **FAULTY,
        "reverse_gain_error": 0.05,
        "line_resistance": 1.0,
        "drift": 0.02,
        "drift_spread": 0.01,
        "age": 3600.0,
    },
}
"""Chips with what an operating point can show: no noise, and converters without rounding."""

ACTIVATIONS = {**networks.ACTIVATIONS, "hardtanh": nn.Hardtanh}


# --- the blocks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """A weighted layer from one state (0 is the input) to another; a state may have several."""

    name: str
    source: int
    target: int


class Layers(nn.Module):
    """``s_k = sigma(sum of the layers into k)``, the last state being the output."""

    def __init__(self, links: Sequence[Link], layers: Mapping[str, nn.Module], activation: str):
        super().__init__()
        self.links, self.depth = tuple(links), max(link.target for link in links)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.activations = nn.ModuleList(ACTIVATIONS[activation]() for _ in range(self.depth))

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for k in range(1, self.depth + 1):
            into = [getattr(self, link.name)(states[link.source]) for link in self.links if link.target == k]
            a = into[0]
            for more in into[1:]:
                a = a + more
            states.append(self.activations[k - 1](a))
        return states[-1]


@dataclass(frozen=True)
class Case:
    """A block to be drawn.

    Attributes:
        shape: ``"dense"`` or ``"conv"``.
        sizes: neurons, or channels, of the input and of each state.
        activation: of every state.
        chip: the name of its errors.
        physics: of the circuit.
        skips: (source, target) of layers beside the chain's.
        loop_gain: the bound on each coupling's; None for unit feedback. Strong feedback needs states that are bounded:
            others may run away.
    """

    shape: str
    sizes: tuple[int, ...]
    activation: str
    chip: str = "ideal"
    physics: str = "hopfield"
    skips: tuple[tuple[int, int], ...] = ()
    loop_gain: float | None = 0.2

    @property
    def text(self) -> str:
        skips = f", {len(self.skips)} skip{'s' * (len(self.skips) > 1)}" * bool(self.skips)
        return f"{self.shape} {'-'.join(map(str, self.sizes))}{skips}"

    @property
    def hardware(self) -> fc.Hardware:
        return fc.Hardware(physics=self.physics, nudge=NUDGE, **CHIPS[self.chip])

    def network(self, generator: torch.Generator) -> Layers:
        pairs = [(k, k + 1) for k in range(len(self.sizes) - 1)] + list(self.skips)
        links = [Link(f"layer{a}_{b}", a, b) for a, b in pairs]
        layers = {link.name: self._layer(self.sizes[link.source], self.sizes[link.target]) for link in links}
        net = Layers(links, layers, self.activation).double()
        networks.initialise(net, "clamp" if self.activation == "hardtanh" else self.activation, generator)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.endswith("bias"):
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return net.eval()

    def _layer(self, n: int, m: int) -> nn.Module:
        return nn.Linear(n, m) if self.shape == "dense" else nn.Conv2d(n, m, 3, padding=1)

    def input(self, generator: torch.Generator, batch: int = 8) -> Tensor:
        shape = (self.sizes[0],) if self.shape == "dense" else (self.sizes[0], PIXELS, PIXELS)
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


PIXELS = 4
CASES = (
    Case("dense", (8, 10, 6), "relu"),
    Case("dense", (8, 12, 10, 6), "clamp", "levels, programming error"),
    Case("dense", (8, 10, 10, 8, 5), "tanh", "stuck devices"),
    Case("dense", (8, 10, 9, 8, 7, 5), "sigmoid", "offset, gain"),
    Case("dense", (8, 10, 10, 9, 8, 7, 5), "relu", "reverse gain"),
    Case("dense", (8, 10, 10, 9, 8, 7, 5), "tanh", "two arrays"),
    Case("dense", (10, 14, 6), "clamp", "everything"),
    Case("dense", (10, 12, 12, 6), "relu", "everything"),
    Case("dense", (10, 12, 12, 6), "sigmoid", "everything"),
    Case("dense", (6, 9, 9, 9, 5), "tanh", "everything", skips=((1, 3), (2, 4))),
    Case("dense", (6, 9, 9, 5), "relu", "levels, programming error", skips=((1, 3),)),
    Case("dense", (8, 16, 8), "tanh", "ideal", loop_gain=2.0),
    Case("dense", (8, 12, 12, 8), "clamp", "everything", loop_gain=4.0),
    Case("dense", (8, 16, 8), "tanh", "everything", loop_gain=None),
    Case("conv", (2, 3, 2), "relu", "levels, programming error"),
    Case("conv", (1, 3, 3, 2), "tanh", "everything"),
    Case("conv", (2, 3, 3), "sigmoid", "two arrays"),
    Case("conv", (1, 2, 2, 2), "clamp", "stuck devices", skips=((1, 3),)),
    Case("dense", (8, 10, 6), "relu", "ideal", "resistive"),
    Case("dense", (8, 10, 8, 6), "clamp", "levels, programming error", "resistive"),
    Case("dense", (8, 9, 9, 8, 6), "hardtanh", "resistive, everything", "resistive"),
    Case("dense", (8, 9, 9, 8, 7, 6), "relu", "stuck devices", "resistive"),
    Case("dense", (6, 8, 8, 8, 7, 6, 5), "hardtanh", "reverse gain", "resistive"),
    Case("dense", (6, 9, 9, 5), "relu", "resistive, everything", "resistive", skips=((1, 3),)),
    Case("conv", (2, 3, 2), "relu", "levels, programming error", "resistive"),
    Case("conv", (1, 2, 2, 2), "hardtanh", "resistive, everything", "resistive"),
)
QUICK = (
    Case("dense", (5, 6, 6, 4), "tanh", "everything", skips=((1, 3),)),
    Case("conv", (1, 2, 2), "clamp", "stuck devices"),
    Case("dense", (5, 6, 5), "hardtanh", "resistive, everything", "resistive"),
)
"""Small ones, to see that everything works."""


# --- one block against ngspice ----------------------------------------------------------------------------

Voltages = Mapping[str, Tensor]


@dataclass(frozen=True)
class Seen:
    """What the emulator finds for one sample of one block.

    Attributes:
        phases: its states in the free phase, and nudged by +beta and -beta.
        circuits: of the same phases.
        gradients: what ``backward()`` returns, by parameter.
        beta: the strength of the nudge.
        error: the largest error, which the nudge is relative to.
        settling: in time constants.
    """

    phases: Mapping[str, Voltages]
    circuits: Mapping[str, Circuit]
    gradients: Mapping[str, Tensor]
    beta: float
    error: float
    settling: float


def emulate(chip: AnalogFFEBM, x: Tensor, error: Tensor) -> Seen:
    """The phases of a model of one block on one sample, for an error of its output.

    The nudge is given by the specification: ``hardware.nudge`` times the output's calibrated range, relative to the
    largest error.
    """
    (block,) = chip.program.energy_blocks
    (output,) = block.outputs
    beta, largest = chip.hardware.nudge * chip.chip.ranges[output].high, float(error.abs().max())
    call = chip.block_call(block, chip.bind_inputs((x,), {}))
    free, on_chip = free_phase(call), call.estimator
    assert isinstance(on_chip, OnChip)
    found: dict[str, Voltages] = {"free": free.states}
    nudges: dict[str, dict[str, Tensor]] = {"free": {}}
    for name, sign in (("+", 1.0), ("-", -1.0)):
        found[name], _ = on_chip.phases.nudged(free, {output: error / largest}, sign * beta, on_chip.sample.phase())
        nudges[name] = {output: sign * beta / call.layer_weights[output] * error / largest}
    circuits = {name: chip.circuits(x, nudge=nudge)[0] for name, nudge in nudges.items()}
    chip.zero_grad()
    (chip(x) * error).sum().backward()
    gradients = {n: p.grad.clone() for n, p in chip.named_parameters() if p.grad is not None}
    settling = float(chip.settling_times(x, duration=AT_REST)[block.name]) / chip.hardware.time_constant
    return Seen(
        {k: {n: v[0] for n, v in s.items()} for k, s in found.items()}, circuits, gradients, beta, largest, settling
    )


def difference(found: Voltages, expected: Voltages) -> float:
    """The worst of all banks, each relative to its largest voltage, and to a thousandth of the block's at least."""
    return max(of_banks(found, expected).values())


def voltages(circuit: Circuit, expected: Voltages) -> tuple[dict[str, Tensor], str]:
    """ngspice's, and the analysis that they are from."""
    found = solve_op(circuit)
    if difference(found, expected) <= VOLTAGE:
        return found, ".op"
    _, course = solve_tran(circuit, AT_REST * circuit.time_constant)
    return {n: v[-1] for n, v in course.items()}, ".tran"


def gradients(net: Layers, plus: Voltages, minus: Voltages, circuit: Circuit, factor: float) -> dict[str, Array]:
    """The activity difference of two nudged phases, from voltages alone: ``- w_m (s_m s_l^T |+ - s_m s_l^T |-) / (2
    beta)``.
    """
    names = [*circuit.inputs, *(bank.name for bank in circuit.banks)]
    found: dict[str, Array] = {}
    for link in net.links:
        source, target = names[link.source], names[link.target]
        w, layer = circuit.bank(target).layer_weight, net.get_submodule(link.name)
        outer, alone = np.zeros(1), np.zeros(1)
        for sign, voltage in ((1.0, plus), (-1.0, minus)):
            post = voltage[target].numpy()
            pre = (circuit.inputs[source] if link.source == 0 else voltage[source]).numpy()
            outer = outer - sign * w * factor * np.outer(post, pre)
            alone = alone - sign * w * factor * post
        dense = isinstance(layer, nn.Linear)
        found[f"{link.name}.weight"] = outer if dense else of_kernel(outer, layer)
        found[f"{link.name}.bias"] = alone if dense else alone.reshape(-1, PIXELS * PIXELS).sum(1)
    return found  # fmt: skip


def of_kernel(outer: Array, layer: nn.Module) -> Array:
    """The gradient of a 3 x 3 kernel, padded by 1, from that of its unrolled matrix: each entry has its devices at many
    positions.
    """
    assert isinstance(layer, nn.Conv2d)
    unrolled = outer.reshape(layer.out_channels, PIXELS, PIXELS, layer.in_channels, PIXELS, PIXELS)
    kernel = np.zeros(tuple(layer.weight.shape))
    for row, column, i, j in np.ndindex(PIXELS, PIXELS, 3, 3):
        above, left = row + i - 1, column + j - 1
        if 0 <= above < PIXELS and 0 <= left < PIXELS:
            kernel[:, :, i, j] += unrolled[:, row, column, :, above, left]
    return kernel


def cosine(a: Array, b: Array) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if not (np.any(a) or np.any(b)) else 0.0
    return float(np.vdot(a, b)) / norms


def compare(case: Case, seed: int) -> dict[str, Any]:
    """One row of the table."""
    generator = torch.Generator().manual_seed(seed)
    net = case.network(generator)
    x = case.input(generator)
    model = fc.convert(net, block_size=len(net.links), loop_gain=case.loop_gain, max_sweeps=2000)
    chip = model.lower("analog-emu", hardware=case.hardware, chip_seed=seed).calibrate(x)
    with torch.no_grad():
        outputs = chip(x).abs().flatten(1)
        x = x[outputs.amax(1).argmax()][None]  # a sample that not all outputs are silent on
        error = torch.randn(chip(x).shape, generator=generator, dtype=torch.float64)
    seen = emulate(chip, x, error)
    found = {name: voltages(circuit, seen.phases[name]) for name, circuit in seen.circuits.items()}
    apart = {name: difference(v, seen.phases[name]) for name, (v, _) in found.items()}
    by_hand = gradients(net, found["+"][0], found["-"][0], seen.circuits["free"], seen.error / (2 * seen.beta))
    cosines = {n: cosine(g, seen.gradients[n].numpy()) for n, g in by_hand.items()}
    settled, end = simulated_settling(seen)
    return {
        "block": case.text,
        "activation": case.activation,
        "chip": case.chip.removeprefix("resistive, "),
        "physics": case.physics,
        "loop gain": case.loop_gain or "unit",
        "neurons": sum(b.drive.numel() for b in seen.circuits["free"].banks),
        "free": f"{apart['free']:.1e}",
        "nudged": f"{max(apart['+'], apart['-']):.1e}",
        "by": "/".join(dict.fromkeys(a for _, a in found.values())),
        "worst cosine": f"{min(cosines.values()):.7f}",
        "settling, ngspice": f"{settled:.3f}",
        "emulator": f"{seen.settling:.3f}",
        "end of .tran": f"{end:.1e}",
        "verdict": verdict(max(*apart.values(), end), min(cosines.values()), settled, seen.settling),
    }


def simulated_settling(seen: Seen) -> tuple[float, float]:
    """The settling time of .tran in time constants, and how far its end is from the emulator's equilibrium."""
    circuit, expected = seen.circuits["free"], seen.phases["free"]
    times, course = solve_tran(circuit, AT_REST * circuit.time_constant)
    settled = settling_time(times, course, final={n: v.flatten() for n, v in expected.items()})
    return settled / circuit.time_constant, difference({n: v[-1] for n, v in course.items()}, expected)


def verdict(apart: float, worst: float, settled: float, emulated: float) -> str:
    failures = [
        f"{what}"
        for what, failed in (
            ("voltages", not apart <= VOLTAGE),
            ("gradient", not worst >= COSINE),
            ("settling", not abs(emulated - settled) <= SETTLING * settled),
        )
        if failed
    ]
    return ", ".join(failures) or "ok"


# --- speed ------------------------------------------------------------------------------------------------

TRANSIENT = 10.0
"""Time constants simulated where transients are timed."""


def timed(work: Callable[[Tensor], Any], x: Tensor, repeats: int) -> float:
    """The median of this process's CPU time over some runs after a first one, in seconds."""
    work(x)
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        work(x)
        times.append(time.process_time() - begun)
    return float(np.median(times))


def simulated(work: Callable[[Circuit], Any], circuits: Sequence[Circuit]) -> float:
    """The mean CPU time of ngspice for a circuit, in seconds."""
    begun = _of_children()
    for circuit in circuits:
        work(circuit)
    return (_of_children() - begun) / len(circuits)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def race(neurons: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row: both analyses at one size."""
    generator = torch.Generator().manual_seed(options.seed)
    half = neurons // 2
    case = Case("dense", (half, half, half), "tanh", "everything")
    x = case.input(generator, options.batch)
    model = fc.convert(case.network(generator), block_size=2, loop_gain=case.loop_gain, tolerance=1e-6)
    chips = [
        model.lower("analog-emu", hardware=fc.Hardware(settling_time=settling, **CHIPS[case.chip])).calibrate(x)
        for settling in (None, TRANSIENT * fc.Hardware().time_constant)
    ]
    with torch.no_grad():
        emulated = [timed(chip, x, options.repeats) for chip in chips]
    circuits = [chips[0].circuits(x[k : k + 1])[0] for k in range(options.samples)]
    point = simulated(solve_op, circuits) * options.batch
    course = simulated(_transient, circuits[:1]) * options.batch
    return {
        "neurons": neurons,
        "devices": sum(4 * e.positive.numel() for e in circuits[0].edges),
        "ngspice .op s": f"{point:.3g}",
        "emulator ms": f"{1e3 * emulated[0]:.3g}",
        "ratio .op": f"{point / emulated[0]:.0f}",
        "ngspice .tran s": f"{course:.3g}",
        "emulator .tran ms": f"{1e3 * emulated[1]:.3g}",
        "ratio .tran": f"{course / emulated[1]:.0f}",
    }


def _transient(circuit: Circuit) -> None:
    solve_tran(circuit, TRANSIENT * circuit.time_constant)


# --- the command ------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    p = common.parser("circuits.py", DESCRIPTION)
    p.add_argument(
        "--sizes",
        type=command.listed(command.whole),
        default=[32, 64, 128, 256],
        metavar="N,...",
        help="neurons of the blocks that are timed",
    )
    p.add_argument("--batch", type=command.whole, default=64, help="samples of a batch that is timed")
    p.add_argument("--samples", type=command.whole, default=3, help="of these, how many ngspice simulates")
    p.add_argument(
        "--repeats", type=command.whole, default=7, help="times that the emulator is timed; the median counts"
    )
    return p  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    cases, sizes = (QUICK, [16]) if options.quick else (CASES, options.sizes)
    if options.quick:
        options.samples, options.repeats, options.batch = 1, 2, 8
    find_ngspice()
    rows = [compare(c, options.seed + k) for k, c in enumerate(tqdm(cases, desc="blocks", leave=False, disable=None))]
    torch.set_num_threads(1)
    races = [race(n, options) for n in tqdm(sizes, desc="speed", leave=False, disable=None)]
    print(records.table(races))
    failing = [r for r in rows if r["verdict"] != "ok"]
    slow = [r for r in races if r["neurons"] >= JUDGED and float(r["ratio .op"]) < FASTER]
    notes = [
        f"{len(rows) - len(failing)} of {len(rows)} blocks agree: voltages within {VOLTAGE:g}, cosines at "
        f"least {COSINE}, settling times within {SETTLING:.0%}",
        f"speed: ngspice's time for a batch of {options.batch} is that of one sample times {options.batch} "
        f"(.op: mean of {options.samples} samples, .tran: one sample, {TRANSIENT:g} time constants); the "
        f"emulator takes the batch at once",
        f"plot in {draw(rows, races, options.out / 'circuits.png')}",
    ]
    common.finish(options, "circuits", rows, notes, speed=races)
    growing = all(float(races[-1][k]) >= float(races[0][k]) for k in ("ratio .op", "ratio .tran"))
    return 1 if failing or slow or not growing else 0


def draw(rows: Sequence[dict[str, Any]], races: Sequence[dict[str, Any]], path: Path) -> Path:
    picture, (left, middle, right) = plotting.figure(3, 4.4)
    for physics, marker in (("hopfield", "o"), ("resistive", "s")):
        chosen = [r for r in rows if r["physics"] == physics]
        numbers = [k for k, r in enumerate(rows) if r["physics"] == physics]
        worst = [max(float(r["free"]), float(r["nudged"]), plotting.FLOOR) for r in chosen]
        left.plot(numbers, worst, marker, markersize=4, label=physics)
        both = [[float(r[c]) for r in chosen] for c in ("settling, ngspice", "emulator")]
        middle.plot(*both, marker, markersize=4, label=physics)
    left.axhline(VOLTAGE, color="black", linewidth=0.8, linestyle=":")
    left.set(yscale="log", xlabel="block", ylabel="worst relative difference of a voltage")
    middle.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
    middle.set(xlabel="settling time by ngspice (time constants)", ylabel="by the emulator")
    for analysis in (".op", ".tran"):
        right.plot(
            [r["neurons"] for r in races],
            [float(r[f"ratio {analysis}"]) for r in races],
            "o-",
            markersize=4,
            label=analysis,
        )
    right.axhline(FASTER, color="black", linewidth=0.8, linestyle=":")
    right.set(xscale="log", yscale="log", xlabel="neurons", ylabel="times as fast as ngspice")
    right.set_xticks([r["neurons"] for r in races], [str(r["neurons"]) for r in races])
    right.minorticks_off()
    for axis in (left, middle, right):
        axis.legend(frameon=False, fontsize=8)
    return plotting.save(picture, path)  # fmt: skip


if __name__ == "__main__":
    command.run(main)
