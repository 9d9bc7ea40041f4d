"""One file that a run can go on from: its configuration, and where each of its stages is.

Only tensors and plain values are stored, and they are loaded with ``weights_only=True``: a checkpoint runs no code.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ffebm_compiler.errors import FFEBMError, Problem

from .records import replacing
from .training import Progress

NAME = "checkpoint.pt"


class CheckpointError(FFEBMError, ValueError):
    """A checkpoint that can't be continued."""


@dataclass
class Checkpoint:
    """Where a run is.

    Attributes:
        folder: where it lies.
        config: the run's options; a run goes on only with the same ones.
        stages: the progress of each stage that has begun.
        results: what the finished steps between them have found, as plain values.
        complete: whether the whole run is done.
    """

    folder: Path
    config: Mapping[str, Any]
    stages: dict[str, Progress] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    complete: bool = False

    def save(self) -> None:
        value = {
            "config": dict(self.config),
            "stages": {k: p.plain() for k, p in self.stages.items()},
            "results": self.results,
            "complete": self.complete,
        }
        with replacing(self.folder / NAME) as file:
            torch.save(value, file)


def begin(folder: Path, config: Mapping[str, Any], resume: bool) -> Checkpoint:
    """A new run, or the one in ``folder``.

    Raises:
        CheckpointError: there is none to resume, it was begun with other options, or an unfinished one would be
            overwritten.
    """
    path = folder / NAME
    if not path.exists():
        if resume:
            raise CheckpointError(
                Problem(
                    "option --resume",
                    f"there is no {NAME} in {folder}",
                    "Start without --resume, or name the folder of the run by --out.",
                )
            )
        return Checkpoint(folder, config)
    found = _read(path)
    if not resume:
        if not found["complete"]:
            raise CheckpointError(
                Problem(
                    "option --out",
                    f"{folder} holds an unfinished run",
                    f"Continue it with --resume, name another folder, or delete {path}.",
                )
            )
        return Checkpoint(folder, config)
    differing = [k for k in config if found["config"].get(k) != config[k]]
    if differing:
        raise CheckpointError(
            Problem(
                f"option --{k.replace('_', '-')}",
                f"is {config[k]}, but the run in {folder} began with {found['config'].get(k)}",
                "Resume with the options that it began with, or start anew in another folder.",
            )
            for k in differing
        )
    stages = {k: Progress(**p) for k, p in found["stages"].items()}
    return Checkpoint(folder, config, stages, found["results"], found["complete"])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, weights_only=True)
        if not (isinstance(found, dict) and set(found) == {"config", "stages", "results", "complete"}):
            raise ValueError("it is no checkpoint of these examples")
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as failure:
        first = str(failure).splitlines()[0] if str(failure) else type(failure).__name__
        raise CheckpointError(
            Problem(f"file {path}", f"can't be read: {first}", "Delete it and start without --resume.")
        ) from failure
    return found
