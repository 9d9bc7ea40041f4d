"""One training loop for feedforward models and ff-EBMs alike, that can stop after any batch and go on from there.

The order of the batches of an epoch depends on the seed and the epoch alone, so models that are compared see the same
batches, and a resumed run repeats what an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ffebm_compiler.cli.interrupt import Stop, stoppable
from ffebm_compiler.errors import FFEBMError, Problem

from .data import Split


class TrainingError(FFEBMError, RuntimeError):
    """Training that can't go on."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        name: ``"digital"``, ``"BP-EP"``, ``"BP"``.
        epochs, batch: how long, and images a batch.
        rate: the learning rate of Adam at its start; it falls to zero along a half cosine.
        seed: of the order of the batches.
    """

    name: str
    epochs: int
    batch: int
    rate: float
    seed: int


@dataclass
class Progress:
    """Where a stage is: everything that is needed to go on, as plain values and tensors."""

    epoch: int = 0
    batch: int = 0
    losses: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    sweeps: list[float] = field(default_factory=list)
    model: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        return dict(vars(self))


def accuracy(model: nn.Module, data: Split, batch: int = 256) -> float:
    """The share of the validation images that are classified as labelled, in percent."""
    training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in data.validation_batches(batch):
            right += int((model(x).argmax(1) == y).sum())
    model.train(training)
    return 100 * right / len(data.valid)


def fit(
    model: nn.Module,
    data: Split,
    stage: Stage,
    progress: Progress | None = None,
    save: Callable[[Progress], None] | None = None,
    stop: Stop | None = None,
    quiet: bool = False,
) -> Progress:
    """Trains to the end of the stage, or to where it is stopped.

    Args:
        progress: where an earlier call came to.
        save: called after each epoch and at a stop.
        stop: asked after each batch.
    """
    progress = progress or Progress()
    total = stage.epochs * _steps(data, stage)
    optimizer = torch.optim.Adam(model.parameters(), lr=stage.rate)
    if progress.model is not None:
        model.load_state_dict(progress.model)
        optimizer.load_state_dict(progress.optimizer or {})
    model.train()
    with tqdm(
        total=total, initial=len(progress.losses), desc=stage.name, unit="batch", disable=quiet or None, leave=False
    ) as bar:
        for epoch in range(progress.epoch, stage.epochs):
            for x, y in _remaining(data, stage, epoch, progress.batch):
                _set_rate(optimizer, stage.rate * _half_cosine(len(progress.losses) / total))
                progress.losses.append(_finite(_step(model, optimizer, x, y), stage, epoch))
                progress.sweeps.append(_sweeps(model))
                progress.batch += 1
                bar.update()
                bar.set_postfix(
                    loss=f"{progress.losses[-1]:.3f}",
                    accuracy=f"{progress.accuracy[-1]:.1f}" if progress.accuracy else "-",
                )
                if stop is not None and stop.asked:
                    return _kept(progress, model, optimizer, save)
            progress.accuracy.append(accuracy(model, data))
            progress.epoch, progress.batch = epoch + 1, 0
            _kept(progress, model, optimizer, save)
    return progress


def epoch_rows(stages: Mapping[str, Progress]) -> list[dict[str, Any]]:
    """One row an epoch of every stage."""
    return [row for name, progress in stages.items() for row in _epochs(name, progress)]


def _epochs(name: str, p: Progress) -> list[dict[str, Any]]:
    steps = len(p.losses) // max(1, p.epoch)
    cut = [slice(i * steps, (i + 1) * steps) for i in range(p.epoch)]
    return [
        {
            "stage": name,
            "epoch": i + 1,
            "mean loss": sum(p.losses[c]) / steps,
            "validation accuracy": p.accuracy[i],
            "mean sweeps": sum(p.sweeps[c]) / steps,
        }
        for i, c in enumerate(cut)
    ]


def _kept(
    progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, save: Callable[[Progress], None] | None
) -> Progress:
    progress.model, progress.optimizer = model.state_dict(), optimizer.state_dict()
    if save is not None:
        save(progress)
    return progress


def _steps(data: Split, stage: Stage) -> int:
    return max(1, len(data.train) // stage.batch)


def _remaining(data: Split, stage: Stage, epoch: int, done: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = torch.Generator().manual_seed(stage.seed * 100_003 + epoch)
    for position, batch in enumerate(data.training_batches(stage.batch, order)):
        if position >= done:
            yield batch


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _finite(loss: float, stage: Stage, epoch: int) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            Problem(
                f"training, stage {stage.name}",
                f"the loss became {loss} in epoch {epoch + 1}",
                "Lower the learning rate; for an ff-EBM, or its loop gain. The last checkpoint is from before.",
            )
        )
    return loss


def _sweeps(model: nn.Module) -> float:
    """The mean number of sweeps of the blocks that relaxed; 0 for a feedforward model."""
    records = getattr(model, "relaxation", ())
    return sum(r.sweeps for r in records) / len(records) if records else 0.0


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _half_cosine(part: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * min(part, 1.0))


__all__ = ["Progress", "Stage", "Stop", "TrainingError", "accuracy", "fit", "stoppable"]
