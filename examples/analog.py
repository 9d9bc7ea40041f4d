"""The job on an emulated chip: what a trained network loses there, why, at what cost, and what training on the chip
recovers.

The loop gain is larger than the executor's default: on a chip two nudged states are really subtracted, and what the
nudge moves in a deeper layer, in proportion to the reverse gain, must stand above the read noise. Cosine of the chip's
gradient with the exact one, digits, RRAM, five batches together, and accuracies in % (``--loop-gain`` repeats it):

    loop gain   conv1_2   conv2_2   conv3_2   fc1    ideal   as programmed   norms calibrated
    0.01          0.35     -0.04      0.30    0.65    99.4        97.8            98.6
    0.05          0.14      0.09      0.79    0.96    99.4        98.1            98.3
    0.2           0.20      0.61      0.89    0.97    99.4        98.1            98.6
    0.5           0.79      0.82      0.89    0.97    99.4        97.8            98.6

With 0.5 a block of two layers is still certified to have one equilibrium, but a network of few channels that had 93.8 %
was left with 23.8 % by its feedback alone, and blocks settle more slowly. 0.2 is safe, and trains a harsh chip as well
(to 96.9 %, against 96.1 % with 0.5).

Relaxations stop at 1e-3, below what the converters and the read noise of any preset let through; on RRAM and on the
harsh chip accuracies and cosines are those of 1e-4 and of rounding, to what the noise of another read changes, in two
thirds of the time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import ffebm_compiler as fc
from examples import chip_measures as measures
from examples import chip_pictures as pictures
from examples import chip_report as report
from examples import networks, records, training
from examples.checkpoints import Checkpoint
from examples.job import Config, Job
from examples.training import Progress, Stop
from ffebm_compiler.chip.hardware import Hardware, quantities
from ffebm_compiler.chip.hardware.documents import to_dict
from ffebm_compiler.chip.hardware.presets import PRESETS, SOURCES, preset
from ffebm_compiler.rules.weighted import LINEAR

LOOP_GAIN, TOLERANCE = 0.2, 1e-3

PROGRAMMED, CALIBRATED = "as programmed", "norms calibrated"
"""A chip with its converters' ranges alone taken from training images, and with the norms' statistics taken from what
it delivers.
"""

HARSH = "harsh"
TOLERATED = 1.0
"""Points of accuracy that a chip may lose before its non-idealities are looked at one by one."""

NORM_BATCHES = 8
GRADIENT_BATCHES = 6
"""At most, and a quarter of an epoch."""


class ChipJob(Job):
    """The chip that was asked for, and a harsh one: measured as they are programmed, then trained by EP."""

    def __init__(self, config: Config, checkpoint: Checkpoint, stop: Stop):
        assert config.hardware is not None
        assert config.chip_seed is not None
        assert config.chips is not None
        asked = preset(config.hardware)
        super().__init__(config, checkpoint, stop)
        self.hardware: dict[str, Hardware] = {asked.name: asked}
        self.hardware.setdefault(HARSH, PRESETS[HARSH])
        self.seeds = range(config.chip_seed, config.chip_seed + config.chips)
        self.training_chips: dict[str, fc.AnalogFFEBM] = {}

    def run(self) -> None:
        config = self.config
        net = networks.vgg(
            self.data.train.classes, torch.Generator().manual_seed(config.seed + 1), config.widths, config.hidden
        )
        self.train("digital", net, config.epochs, config.rate)
        model = fc.convert(net, block_size=config.block_size, loop_gain=config.loop_gain, tolerance=TOLERANCE).eval()
        ideal = self.once("accuracy", lambda: self.ideal_accuracy(net, model))
        model(self.images(2))  # measures the gains, also where the accuracy is known already
        print(
            f"accuracy: original {ideal['original']:.2f} %, ideal analog {ideal['ideal analog']:.2f} "
            f"%\n\n{model.report()}\n"
        )
        for name, hardware in self.hardware.items():
            self.measure(name, hardware, model, ideal["ideal analog"])
            self.fine_tune(name, model)
        self.finish(net, model)

    def ideal_accuracy(self, net: nn.Module, model: fc.FFEBM) -> dict[str, float]:
        return {
            "original": training.accuracy(net, self.data),
            "ideal analog": training.accuracy(model, self.data),
        }

    def images(self, count: int) -> torch.Tensor:
        return self.data.pixels(self.data.valid.x[:count])

    # --- a chip as it is programmed -------------------------------------------------------------------

    def measure(self, name: str, hardware: Hardware, model: fc.FFEBM, ideal: float) -> None:
        times = self.once(f"{name}: settling", lambda: self.settling(hardware, model))
        emulated = self.emulated(name)
        found = [
            self.once(f"{name}: chip {seed}", lambda s=seed: self.accuracies(model, emulated, s)) for seed in self.seeds
        ]
        print(f"{name}: settles in {1e9 * max(times.values()):.0f} ns")
        if emulated.settling_time is not None:
            print(
                f"{name}: phases of {1e9 * emulated.settling_time:.0f} ns end before that, so transients are "
                f"computed: this takes many times as long"
            )
        for seed, accuracies in zip(self.seeds, found, strict=True):
            print(f"{name}, chip {seed}: " + ", ".join(f"{k} {a:.2f} %" for k, a in accuracies.items()), flush=True)
        self.once(f"{name}: as programmed", lambda: self.state(self.chip(model, emulated)))
        self.once(f"{name}: cost", lambda: self.cost(name, hardware, model))
        self.once(f"{name}: netlists", lambda: self.netlists(name, hardware, model))
        if name == HARSH or ideal - min(a[PROGRAMMED] for a in found) > TOLERATED:
            self.ablate(name, emulated, model)
        self.once(f"{name}: gradients", lambda: self.gradients(name, model, emulated))

    def accuracies(self, model: fc.FFEBM, hardware: Hardware, seed: int) -> dict[str, float]:
        """Of a new chip with calibrated ranges; then with norms that are calibrated on it too."""
        chip = measures.programmed(model, hardware, self.data, seed)
        before = training.accuracy(chip, self.data)
        self.calibrate_norms(chip)
        return {PROGRAMMED: before, CALIBRATED: training.accuracy(chip, self.data)}

    def calibrate_norms(self, chip: fc.AnalogFFEBM) -> None:
        order = self.data.training_batches(self.config.batch, torch.Generator().manual_seed(self.config.seed))
        measures.retake_statistics(chip, (x for _, (x, _) in zip(range(NORM_BATCHES), order, strict=False)))

    def chip(self, model: fc.FFEBM, hardware: Hardware, noise_seed: int = 0) -> fc.AnalogFFEBM:
        """The first chip of a specification, with the converted model's weights."""
        return measures.programmed(model, hardware, self.data, self.seeds[0], noise_seed)

    def emulated(self, name: str) -> Hardware:
        """What is run in bulk: phases that are long enough end at their equilibrium, which takes a fraction of the
        time.
        """
        hardware, times = self.hardware[name], self.checkpoint.results[f"{name}: settling"]
        return replace(hardware, settling_time=None) if measures.is_settled(times, hardware) else hardware

    def settling(self, hardware: Hardware, model: fc.FFEBM) -> dict[str, float]:
        """Seconds until each block has settled to 1 %, on one image: others differ by a few percent."""
        found = self.chip(model, hardware).settling_times(self.images(1))
        return {block: float(times.max()) for block, times in found.items()}

    def state(self, chip: fc.AnalogFFEBM) -> dict[str, Any]:
        """The chip's own report after all validation images, and its devices."""
        chip.chip.saturation.clear()  # of training
        right = training.accuracy(chip, self.data)
        return {"accuracy": right, "report": chip.chip_report().to_dict(), "conductances": measures.conductances(chip)}

    def cost(self, name: str, hardware: Hardware, model: fc.FFEBM) -> dict[str, Any]:
        cost = self.chip(model, hardware).cost(self.images(1), batch=self.config.batch)
        self.folder.mkdir(parents=True, exist_ok=True)
        cost.plot(self.folder / f"cost-{slug(name)}.png")
        tables = {step: [list(row) for row in cost.table(step)] for step in ("inference", "training")}
        return {**cost.to_dict(), "tables": tables, "remarks": list(cost.remarks)}

    def netlists(self, name: str, hardware: Hardware, model: fc.FFEBM) -> dict[str, Any]:
        """Netlists of the blocks without convolutions: unrolled, the others have a device for every position."""
        chip = self.chip(model, hardware)
        dense = [b.name for b in model.program.energy_blocks if all(t.operation.kind is LINEAR for t in b.layers)]
        folder = Path("netlists") / slug(name)
        if not dense:
            return {"written": [], "remark": "every block has a convolution"}
        (self.folder / folder).parent.mkdir(parents=True, exist_ok=True)
        try:
            written = chip.export_spice(self.folder / folder, self.images(1), overwrite=True, blocks=dense)
        except (fc.OptionError, fc.InputError) as refused:
            return {"written": [], "remark": str(refused)}
        left = [b.name for b in model.program.energy_blocks if b.name not in dense]
        remark = f"left out, since unrolled convolutions are too large to simulate: {', '.join(left)}" if left else ""
        return {"written": [str(folder / p.name) for p in written], "remark": remark}

    def ablate(self, name: str, hardware: Hardware, model: fc.FFEBM) -> None:
        """Every non-ideality taken away, and every one alone."""
        for group, way, changed in tqdm(
            [*measures.ablations(hardware)], f"{name}: ablation", leave=False, disable=None
        ):
            step = f"{name}: {way}: {group}"
            self.once(step, lambda h=changed: measures.accuracy(model, h, self.data, self.seeds[0]))

    def gradients(self, name: str, model: fc.FFEBM, hardware: Hardware) -> dict[str, Any]:
        """The chip's gradient against exact ones, and how the phases settled that it took."""
        chip = self.chip(model, hardware)
        order = self.data.training_batches(self.config.batch, torch.Generator().manual_seed(self.config.seed))
        count = max(1, min(GRADIENT_BATCHES, len(self.data.train) // self.config.batch // 4))
        batches = [batch for _, batch in zip(range(count), order, strict=False)]
        with tqdm(total=len(batches), desc=f"{name}: gradients", leave=False, disable=None) as bar:
            rows = measures.gradient_rows(chip, model, batches, lambda: bar.update() and None)
        settled = [("free", r) for r in chip.relaxation]
        settled += [(f"nudged {s}", r) for rs in chip.nudged_relaxation.values() for s, r in zip("+-", rs, strict=True)]
        return {"rows": rows, "relaxation": [{"phase": phase, **asdict(r)} for phase, r in settled]}

    # --- training on the chip -------------------------------------------------------------------------

    def fine_tune(self, name: str, model: fc.FFEBM) -> None:
        stage = f"on {name}"
        known = self.checkpoint.stages.get(stage)
        if known is not None and known.losses:
            chip = model.lower("analog-emu", chip=self.chip_file(name, known))
        else:
            chip = self.chip(model, self.emulated(name), noise_seed=1)
            self.calibrate_norms(chip)
        self.training_chips[stage] = chip
        self.train(stage, chip, self.config.finetune_epochs, self.config.finetune_rate)
        self.once(f"{name}: fine-tuned", lambda: self.state(chip))

    def chip_file(self, name: str, progress: Progress) -> Path:
        """Where the chip is that belongs to a checkpoint."""
        return self.folder / f"chip-{slug(name)}-{len(progress.losses)}.npz"

    def keep(self, name: str, progress: Progress) -> None:
        """The chip first, under a name of its own, so that the checkpoint always finds the one that it belongs to."""
        chip = self.training_chips.get(name)
        if chip is None:
            super().keep(name, progress)
            return
        hardware = name.removeprefix("on ")
        path = chip.save_chip(self.chip_file(hardware, progress))
        super().keep(name, progress)
        for old in self.folder.glob(f"chip-{slug(hardware)}-*.npz"):
            if old != path:
                old.unlink()

    # --- what is left of it ---------------------------------------------------------------------------

    def finish(self, net: nn.Module, model: fc.FFEBM) -> None:
        networks_of = {"digital.pt": net, **{f"on-{slug(n)}.pt": self.training_chips[f"on {n}"] for n in self.hardware}}
        for file, network in networks_of.items():
            with records.replacing(self.folder / file) as out:
                torch.save(network.state_dict(), out)
        for picture in ("graph.html", "graph.svg"):
            model.draw(self.folder / picture)
        found = self.collected()
        pictures.draw(found, self.folder)
        records.write_json(self.folder / "metrics.json", found)
        records.write_csv(self.folder / "metrics.csv", training.epoch_rows(self.checkpoint.stages))
        for table in ("gradients", "ablation"):
            rows = [{"chip": n, **row} for n, chip in found["chips"].items() for row in chip[table]]
            records.write_csv(self.folder / f"{table}.csv", rows)
        sections = report.sections(found, str(model.report()))
        records.write_text(self.folder / "report.txt", report.as_text(sections))
        records.write_text(self.folder / "report.html", report.as_html(sections, self.folder))
        print("\n" + report.as_text(report.summary(found)))
        self.checkpoint.complete = True
        self.checkpoint.save()

    def collected(self) -> dict[str, Any]:
        """Everything that was found, as plain values: what the report and its pictures are made from."""
        stages = self.checkpoint.stages
        return {
            "config": asdict(self.config),
            "versions": records.versions(),
            "data": self.facts,
            "accuracy": self.checkpoint.results["accuracy"],
            "chips": {name: self.collected_chip(name) for name in self.hardware},
            "curves": {n: {"losses": p.losses, "accuracy": p.accuracy, "sweeps": p.sweeps} for n, p in stages.items()},
        }

    def collected_chip(self, name: str) -> dict[str, Any]:
        found, ideal = self.checkpoint.results, self.checkpoint.results["accuracy"]["ideal analog"]
        start, tuned = found[f"{name}: as programmed"], found[f"{name}: fine-tuned"]
        chips = {str(seed): found[f"{name}: chip {seed}"] for seed in self.seeds}
        first = chips[str(self.seeds[0])]
        curve = self.checkpoint.stages[f"on {name}"].accuracy
        return {
            "hardware": hardware_rows(name, self.hardware[name]),
            "phases end": "at the equilibrium" if self.emulated(name).settling_time is None else "at the settling time",
            "settling_time": self.hardware[name].settling_time,
            "settling": found[f"{name}: settling"],
            "accuracy": chips,
            "fine-tuned": curve[-1],
            "recovered": {k: recovered(ideal, before, curve[-1]) for k, before in first.items()},
            "ablation": self.ablation_rows(name),
            "gradients": found[f"{name}: gradients"]["rows"],
            "relaxation": found[f"{name}: gradients"]["relaxation"],
            "as programmed": start,
            "after fine-tuning": tuned,
            "cost": found[f"{name}: cost"],
            "netlists": found[f"{name}: netlists"],
        }

    def ablation_rows(self, name: str) -> list[dict[str, Any]]:
        found = self.checkpoint.results
        groups = [g for g in measures.GROUPS if f"{name}: without: {g}" in found]
        return [
            {"non-ideality": g, "without it": found[f"{name}: without: {g}"], "alone": found[f"{name}: alone: {g}"]}
            for g in groups
        ]


def recovered(ideal: float, before: float, after: float) -> float | None:
    """The part of the loss that training has made up for; None where less than a point was lost."""
    return None if ideal - before <= TOLERATED else (after - before) / (ideal - before)


def hardware_rows(name: str, hardware: Hardware) -> list[dict[str, str]]:
    """Every field with its unit and source."""
    known, plain = quantities(), to_dict(hardware)
    sources = SOURCES.get(name, {}) if PRESETS.get(name) == hardware else {}
    given: Mapping[str, Any] = to_dict(Hardware())
    return [
        {
            "field": field,
            "value": _value(plain[field]),
            "unit": known[field].unit,
            "meaning": known[field].about,
            "source": sources.get(field, "ideal" if plain[field] == given[field] else "given"),
        }
        for field in known
        if field != "name"
    ]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:.4g}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(f"{v:.4g}" for v in value)
    return "none" if value is None else str(value)


def slug(name: str) -> str:
    """A hardware's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name)
