"""A process that has imported everything and forks a worker for each line of its input: ``compile PATH`` or ``train
BUNDLE CHECKPOINT``.

It first prints how long a compilation takes, and after ``load BUNDLE`` how long a step of its training does. A worker
prints its process number when it begins, and works until it is killed. So fifty kills cost fifty forks, not fifty
starts of Python.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

import torch
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler import runtime

BATCH = 4


def network(version: int) -> nn.Sequential:
    """Two versions of one model: whole bundles are of the one or of the other."""
    with torch.random.fork_rng():
        torch.manual_seed(version)
        return nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))


def trainable() -> nn.Sequential:
    """A model with running statistics and random numbers in its digital parts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        )


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 5, generator=generator), torch.randint(0, 3, (BATCH,), generator=generator)


def compile_for_ever(models: list[fc.FFEBM], path: str) -> None:
    """Replaces the bundle at the path by that of the other version, again and again."""
    for model in itertools.cycle(models):
        model.compile_to(path, (data(0)[0],), overwrite=True)


def train_for_ever(trainer: runtime.Trainer, checkpoint: str) -> None:
    """Goes on from the checkpoint, and writes it after every step."""
    if os.path.exists(checkpoint):
        trainer.load_checkpoint(checkpoint)
    while True:
        trainer.step(*data(trainer.steps))
        trainer.save_checkpoint(checkpoint)


def new_trainer(bundle: str) -> runtime.Trainer:
    loaded = runtime.load(bundle, threads=1)
    return loaded.trainer("cross_entropy", "adam", learning_rate=0.01, seed=1)


def warmed(bundle: str) -> tuple[runtime.Trainer, float]:
    """A trainer that has derived and loaded all that it needs, before its first step; and how long a step takes it."""
    trainer = new_trainer(bundle)
    with tempfile.TemporaryDirectory() as folder:
        start = os.path.join(folder, "start")
        trainer.save_checkpoint(start)
        trainer.step(*data(0))
        began = time.perf_counter()
        for _ in range(5):
            trainer.step(*data(0))
            trainer.save_checkpoint(os.path.join(folder, "checkpoint"))
        period = (time.perf_counter() - began) / 5
        return trainer.load_checkpoint(start), period


def compilation_time(models: list[fc.FFEBM]) -> float:
    """Of one compilation, once everything that it needs has been imported."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "build")
        models[0].compile_to(path, (data(0)[0],))
        began = time.perf_counter()
        models[1].compile_to(path, (data(0)[0],), overwrite=True)
        return time.perf_counter() - began


def fork(work: Callable[[], None]) -> None:
    """Runs the work in a child; says its number once it begins."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("ended", flush=True)
        return
    print(os.getpid(), flush=True)
    try:
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def main() -> None:
    torch.set_num_threads(1)
    models = [fc.convert(network(version), block_size=2) for version in (2, 1)]
    print(compilation_time(models), flush=True)
    trainers: dict[str, runtime.Trainer] = {}
    for line in sys.stdin:
        command, *paths = line.rstrip("\n").split("\t")
        if command == "compile":
            fork(lambda paths=paths: compile_for_ever(models, *paths))
        elif command == "load":
            trainers[paths[0]], period = warmed(paths[0])
            print(period, flush=True)
        else:
            fork(lambda paths=paths: train_for_ever(trainers[paths[0]], paths[1]))


if __name__ == "__main__":
    main()
