"""Trains a VGG digitally, compiles it to an ff-EBM, and fine-tunes it there by BP-EP, on real images."""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from examples import analog, checkpoints, command, networks, plotting, records, training
from examples.data import FORMATS
from examples.job import Config, Job
from examples.training import Progress
from ffebm_compiler.chip.hardware.presets import PRESETS

DESCRIPTION = f"""
Trains a VGG for 32 x 32 x 3 images by backpropagation, converts it to a feedforward-tied energy-based model,
and compares the two: accuracy before and after conversion, the gradient of equilibrium propagation against the
exact one, and fine-tuning by BP-EP against fine-tuning by BP from the same weights on the same batches.

    python examples/compile_vgg.py                          scikit-learn's digits; a few minutes on two cores
    python examples/compile_vgg.py --data PATH              MNIST, CIFAR-10 or an .npz from files
    python examples/compile_vgg.py --block-size 3 --loop-gain 0.05 --out runs/vgg3
    python examples/compile_vgg.py --resume                 goes on where Ctrl-C stopped it

With --backend analog-emu the blocks run on an emulated chip: what it loses and why, the gradient that it delivers, its
cost, and what fine-tuning on the chip by equilibrium propagation recovers, there and on a harsh chip. See report.html.

    python examples/compile_vgg.py --backend analog-emu --hardware pcm --out runs/pcm

Formats of --data:
{FORMATS}

Into the folder --out go report.txt, curves.png, gradients.png, graph.html (open it in a browser), graph.graphml,
metrics.json (with configuration, seeds and versions), metrics.csv, the weights of the three models (*.pt) and
checkpoint.pt.
"""


DEFAULTS: dict[str, dict[str, Any]] = {
    "torch-ep": {
        "widths": [32, 64, 128],
        "hidden": 128,
        "loop_gain": command.DEFAULT_LOOP_GAIN,
        "finetune_epochs": 2,
        "finetune_rate": 2e-4,
    },
    "analog-emu": {
        "widths": [16, 32, 64],
        "hidden": 64,
        "loop_gain": analog.LOOP_GAIN,
        "finetune_epochs": 3,
        "finetune_rate": 1e-3,
        "hardware": "rram",
        "chip_seed": 0,
        "chips": 3,
    },
}
"""Of each backend. An emulated chip takes some fifty times as long as the network, so it holds a smaller one."""

QUICK = dict(widths=[8, 16, 16], hidden=32, epochs=6, finetune_epochs=1, batch=32, rate=3e-3, limit=500)
QUICK_CHIP = dict(QUICK, widths=[6, 12, 16], limit=400, finetune_epochs=2, finetune_rate=3e-3, chips=2)


def parser() -> argparse.ArgumentParser:
    p = command.command("compile_vgg.py", DESCRIPTION, "runs/vgg")
    p.add_argument("--backend", choices=tuple(DEFAULTS), default="torch-ep", help="what runs the energy-based blocks")
    p.add_argument(
        "--data", type=Path, metavar="PATH", help="folder or .npz file of images; scikit-learn's digits if not given"
    )
    p.add_argument("--resume", action="store_true", help="go on with the unfinished run in --out")
    p.add_argument("--block-size", type=command.whole, default=2, help="weighted layers of an energy-based block")
    p.add_argument(
        "--loop-gain", type=command.positive, help=f"bound on each coupling's loop gain ({by_backend('loop_gain')})"
    )
    p.add_argument(
        "--widths",
        type=command.listed(command.whole),
        metavar="N,N,...",
        help=f"channels of each stage of two convolutions ({by_backend('widths')})",
    )
    p.add_argument(
        "--hidden", type=command.whole, help=f"width of the classifier's hidden layer ({by_backend('hidden')})"
    )
    p.add_argument("--epochs", type=command.whole, default=8, help="of digital training")
    p.add_argument(
        "--finetune-epochs", type=command.whole, help=f"of each fine-tuning ({by_backend('finetune_epochs')})"
    )
    p.add_argument("--batch", type=command.whole, default=64, help="images a batch")
    p.add_argument("--rate", type=command.positive, default=1e-3, help="Adam's learning rate in digital training")
    p.add_argument("--finetune-rate", type=command.positive, help=f"and in fine-tuning ({by_backend('finetune_rate')})")
    p.add_argument("--limit", type=command.whole, help="use at most so many images")
    chip = p.add_argument_group("with --backend analog-emu")
    chip.add_argument(
        "--hardware", metavar="CHIP", help=f"{', '.join(PRESETS)}, or a .toml or .json file (default: rram)"
    )
    chip.add_argument(
        "--chip-seed", type=command.seed, help="of what is fixed for one chip: errors, mismatch, faults (default: 0)"
    )
    chip.add_argument(
        "--chips", type=command.whole, help="how many chips are programmed and measured, from that seed on (default: 3)"
    )
    return p


def by_backend(option: str) -> str:
    """The defaults of an option that depends on the backend, in words."""
    values = [(b, d[option]) for b, d in DEFAULTS.items()]
    shown = [(",".join(map(str, v)) if isinstance(v, list) else v, b) for b, v in values]
    return "default: " + ", ".join(f"{v} for {b}" for v, b in shown)


def configuration(options: argparse.Namespace) -> Config:
    """Options that are not given take the backend's defaults; ``--quick`` sets its own."""
    defaults = DEFAULTS[options.backend]
    given = {name: getattr(options, name) for name in Config.__dataclass_fields__}
    chosen = {name: defaults.get(name) if value is None else value for name, value in given.items()}
    chosen["data"] = None if options.data is None else str(options.data)
    if options.quick:
        chosen |= QUICK if options.backend == "torch-ep" else QUICK_CHIP
    if options.backend == "torch-ep":
        chosen |= dict(hardware=None, chip_seed=None, chips=None)
    return Config(**chosen)


class TorchJob(Job):
    """Convert, compare, fine-tune by BP-EP and by BP."""

    def run(self) -> None:
        net = networks.vgg(
            self.data.train.classes,
            torch.Generator().manual_seed(self.config.seed + 1),
            self.config.widths,
            self.config.hidden,
        )
        self.train("digital", net, self.config.epochs, self.config.rate)
        model = fc.convert(net, block_size=self.config.block_size, loop_gain=self.config.loop_gain)
        self.compare_inference(net, model)
        self.compare_gradients(model)
        self.train("BP-EP", model, self.config.finetune_epochs, self.config.finetune_rate)
        again = copy.deepcopy(net)
        self.train("BP", again, self.config.finetune_epochs, self.config.finetune_rate)
        self.finish(net, model, again)

    def compare_inference(self, net: nn.Module, model: nn.Module) -> None:
        before, after = training.accuracy(net, self.data), training.accuracy(model, self.data)
        self.facts |= {"accuracy of the original": before, "accuracy after conversion": after}
        print(f"accuracy: original {before:.2f} %, converted at block size {self.config.block_size} {after:.2f} %")

    def compare_gradients(self, model: Any) -> None:
        x, y = next(self.data.training_batches(16, torch.Generator().manual_seed(self.config.seed)))
        compared = fc.compare_gradients(copy.deepcopy(model).train(), x, y, F.cross_entropy)
        worst = compared.worst
        compared.plot(self.folder / "gradients.png")
        self.facts |= {"worst gradient": worst.name, "its cosine": worst.cosine, "its relative error": worst.error}
        print(
            f"gradient against the exact one: worst cosine {worst.cosine:.7f}, relative error {worst.error:.1e}, "
            f"at {worst.name}"
        )

    def finish(self, net: nn.Module, model: Any, again: nn.Module) -> None:
        stages = self.checkpoint.stages
        ep, bp = stages["BP-EP"].accuracy[-1], stages["BP"].accuracy[-1]
        self.facts |= {"accuracy fine-tuned by BP-EP": ep, "accuracy fine-tuned by BP": bp, "BP-EP minus BP": ep - bp}
        self.facts["accuracy of the BP-EP weights, run feedforward"] = training.accuracy(
            model.to_feedforward(), self.data
        )
        self.facts["mean sweeps a block"] = sum(stages["BP-EP"].sweeps) / len(stages["BP-EP"].sweeps)
        for file, network in (("digital.pt", net), ("bp-ep.pt", model), ("bp.pt", again)):
            with records.replacing(self.folder / file) as out:
                torch.save(network.state_dict(), out)
        title = f"{self.facts['data']}: a VGG, converted at block size {self.config.block_size}"
        plotting.training_curves(stages, self.facts["accuracy after conversion"], self.folder / "curves.png", title)
        model.draw(self.folder / "graph.html")
        write_graph(model, self.folder / "graph.graphml")
        write_records(self.folder, self.config, self.facts, stages)
        records.write_text(self.folder / "report.txt", report(self.config, self.facts, model))
        self.checkpoint.complete = True
        self.checkpoint.save()


def write_graph(model: Any, path: Path) -> None:
    import networkx as nx

    with records.replacing(path) as file:
        nx.write_graphml(model.to_networkx(), file)


def write_records(folder: Path, config: Config, facts: Mapping[str, Any], stages: Mapping[str, Progress]) -> None:
    """metrics.json and, one row an epoch, metrics.csv."""
    curves = {name: {"losses": p.losses, "accuracy": p.accuracy, "sweeps": p.sweeps} for name, p in stages.items()}
    records.write_json(
        folder / "metrics.json",
        {"config": asdict(config), "versions": records.versions(), "results": facts, "curves": curves},
    )
    records.write_csv(folder / "metrics.csv", training.epoch_rows(stages))


def report(config: Config, facts: Mapping[str, Any], model: Any) -> str:
    lines = [
        f"  {k:48} {v:.4f}" if isinstance(v, float) and abs(v) > 1e-3 else f"  {k:48} {v}" for k, v in facts.items()
    ]
    options = [f"  {k:48} {v}" for k, v in (asdict(config) | records.versions()).items()]
    return "\n".join(
        ["Results", *lines, "", "Options and versions", *options, "", "The compiled model", "", str(model.report()), ""]
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    config = configuration(options)
    with training.stoppable() as stop, warnings.catch_warnings():
        warnings.simplefilter("once", fc.ConvergenceWarning)
        checkpoint = checkpoints.begin(options.out, asdict(config), options.resume)
        if checkpoint.complete:
            print(f"{options.out} is a finished run; see {options.out / 'report.txt'}.")
            return 0
        (analog.ChipJob if config.backend == "analog-emu" else TorchJob)(config, checkpoint, stop).run()
    files = "report.html, report.txt" if config.backend == "analog-emu" else "report.txt, curves.png"
    print(f"results in {options.out}: {files}, graph.html, metrics.json")
    return 0


if __name__ == "__main__":
    command.run(main)
