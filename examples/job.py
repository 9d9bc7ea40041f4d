"""A job of several steps that Ctrl-C can stop anywhere: every finished step, and every epoch of training, is in the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from examples import checkpoints, command, training
from examples.data import Split, as_32x32x3, load, split
from examples.training import Progress, Stage


@dataclass(frozen=True)
class Config:
    """What determines the numbers of a run."""

    backend: str
    data: str | None
    seed: int
    widths: list[int]
    hidden: int
    block_size: int
    loop_gain: float
    batch: int
    epochs: int
    finetune_epochs: int
    rate: float
    finetune_rate: float
    limit: int | None
    hardware: str | None
    chip_seed: int | None
    chips: int | None


class Job:
    """Steps in order, each of which reads what the ones before it left."""

    def __init__(self, config: Config, checkpoint: checkpoints.Checkpoint, stop: training.Stop):
        self.config, self.checkpoint, self.stop = config, checkpoint, stop
        self.folder = checkpoint.folder
        images = as_32x32x3(load(None if config.data is None else Path(config.data)))
        self.data: Split = split(images, torch.Generator().manual_seed(config.seed), limit=config.limit)
        self.facts: dict[str, Any] = {
            "data": images.name,
            "source": images.source,
            "training images": len(self.data.train),
            "validation images": len(self.data.valid),
        }

    def train(self, name: str, model: nn.Module, epochs: int, rate: float) -> Progress:
        """One stage, from where the checkpoint has it; raises Interrupted where the user stops it."""
        stage = Stage(name, epochs, self.config.batch, rate, self.config.seed + (name != "digital"))
        progress = self.checkpoint.stages.get(name, Progress())
        self.checkpoint.stages[name] = progress
        found = training.fit(model, self.data, stage, progress, lambda p: self.keep(name, p), self.stop)
        self.check_stop()
        print(f"{name:8} {epochs} epochs: accuracy {found.accuracy[-1]:.2f} %", flush=True)
        return found

    def keep(self, name: str, progress: Progress) -> None:
        self.checkpoint.stages[name] = progress
        self.checkpoint.save()

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What a step found: plain values, from the checkpoint where an earlier run has made it."""
        if name not in self.checkpoint.results:
            self.check_stop()
            self.checkpoint.results[name] = measure()
            self.checkpoint.save()
        return self.checkpoint.results[name]

    def check_stop(self) -> None:
        if self.stop.asked:
            raise command.Interrupted(
                f"Everything so far is in {self.folder}. Go on with the same options and --resume."
            )
