"""``ffebm train``: a bundle on data from files; from a checkpoint, a training goes on as if never interrupted."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from ..errors import InputError, OptionError, Problem, problems_of
from ..files import check_target, write_whole
from .arrays import precision_of, read_array, read_inputs
from .batches import Batches
from .interrupt import stoppable
from .metrics import Metrics

if TYPE_CHECKING:
    from ..bundle.run import Runtime, Trainer

MOMENTUM = 0.9
"""Of sgd, where no other is asked for."""


def train_bundle(options: argparse.Namespace) -> int:
    """Trains; exit status 130 if interrupted, with the checkpoint whole."""
    OptionError.raise_if(_problems(options))
    from ..bundle import run as runtime

    model = runtime.load(options.bundle, threads=options.threads)
    data = _data(model, options)
    trainer = _trainer(model, options)
    if options.resume:
        trainer.load_checkpoint(options.checkpoint)
    with Metrics(_metrics_file(options), trainer.steps) as metrics:
        asked = _asked(options, trainer, len(data))
        _require_same(metrics.asked, asked)
        metrics.begin(asked)
        if trainer.steps >= options.epochs * data.steps:
            print(
                f"ffebm: nothing is left to do: {options.checkpoint} has {trainer.steps} steps; raise --epochs.",
                file=sys.stderr,
            )
        finished = _train(trainer, data, options, metrics)
    if not finished:
        return _interrupted(trainer, data, options)
    for path in _written(model, options):
        print(path)
    return 0


def _train(trainer: Trainer, data: Batches, options: argparse.Namespace, metrics: Metrics) -> bool:
    """Takes the steps that are left; False if the user asked for an end."""
    total = options.epochs * data.steps
    with (
        stoppable() as stop,
        tqdm(total=total, initial=min(trainer.steps, total), unit="step", disable=None, leave=False) as bar,
    ):
        while trainer.steps < total and not stop.asked:
            epoch, batch = divmod(trainer.steps, data.steps)
            x, y = data.batch(epoch, batch)
            try:
                loss = float(trainer.step(x, y))
            except OptionError as failure:  # of weights that the last step has left without a finite norm
                if trainer.has_finite_weights:
                    raise
                raise InputError([_diverged(trainer.steps, options), *failure.problems]) from failure
            metrics.step(trainer.steps, epoch, loss)
            bar.set_postfix(epoch=epoch + 1, loss=f"{loss:.4g}", refresh=False)
            bar.update()
            if loss != loss or abs(loss) == float("inf"):
                raise InputError(_diverged(trainer.steps, options))
            if trainer.steps % options.every == 0 and trainer.steps < total:
                trainer.save_checkpoint(options.checkpoint)
        trainer.save_checkpoint(options.checkpoint)
    finished: bool = trainer.steps >= total
    return finished


def _diverged(steps: int, options: argparse.Namespace) -> Problem:
    return Problem(
        f"training, step {steps}",
        "the loss is no longer a finite number",
        f"Lower --learning-rate (it is {options.learning_rate:g}) and begin again; "
        f"{options.checkpoint} was not overwritten.",
    )


def _interrupted(trainer: Trainer, data: Batches, options: argparse.Namespace) -> int:
    print(
        f"ffebm: interrupted: {trainer.steps} of {options.epochs * data.steps} steps are in {options.checkpoint}. "
        "Run the same command with --resume to go on.",
        file=sys.stderr,
    )
    return 130


def _trainer(model: Runtime, options: argparse.Namespace) -> Trainer:
    default = MOMENTUM if options.optimizer == "sgd" else 0.0
    return model.trainer(
        options.loss,
        options.optimizer,
        learning_rate=options.learning_rate,
        momentum=default if options.momentum is None else options.momentum,
        weight_decay=options.weight_decay,
        seed=options.seed,
        loss_output=options.loss_output,
    )


def _data(model: Runtime, options: argparse.Namespace) -> Batches:
    positional, named = read_inputs(options.input, precision_of(model.model.network))
    target = read_array(Path(options.target), f"target {options.target}")
    return Batches(positional, named, target, options.batch_size, options.seed)


def _written(model: Runtime, options: argparse.Namespace) -> Iterator[Path]:
    yield Path(options.checkpoint)
    if options.output:
        yield model.save(options.output, overwrite=options.force)
    if options.weights_out:
        yield _write_weights(Path(options.weights_out), model.state_dict())


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> Path:
    """By the model's own names, for ``net.load_state_dict(safetensors.torch.load_file(path))``."""
    from safetensors.torch import save

    return write_whole(path, save({n: t.contiguous() for n, t in weights.items()}), "weights")


# --- what is wrong with the options -------------------------------------------------------------------------


def _problems(options: argparse.Namespace) -> Iterator[Problem]:
    """Everything that can be known before the work."""
    for name in ("input", "target"):
        if not getattr(options, name):
            yield Problem(f"option --{name}", "is missing", f"For example --{name} {name[0]}.npy.")
    for name in ("epochs", "batch_size", "every", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            yield Problem(f"option --{name.replace('_', '-')}", f"is {value}", "Give a whole number from 1.")
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        what = f"was started in {processes} processes, which would train {processes} models apart and write one file"
        yield Problem(
            "ffebm train", what, "Run it once; training in several processes is what write_training_loop is for."
        )
    yield from _file_problems(options)
    yield from _optimizer_problems(options)


def _file_problems(options: argparse.Namespace) -> Iterator[Problem]:
    from ..bundle.compile.options import place_problems

    checkpoint = Path(options.checkpoint)
    if checkpoint.is_file() and not (options.resume or options.force):
        yield Problem(f"checkpoint {checkpoint}", "exists", "Go on from it by --resume, or begin anew by --force.")
    if options.resume and not checkpoint.is_file():
        yield Problem(
            f"checkpoint {checkpoint}", "does not exist, and --resume is given", "Leave --resume out to begin."
        )
    files = {"checkpoint": options.checkpoint, "metrics": _metrics_file(options), "weights": options.weights_out}
    for what, path in files.items():
        if path is not None:
            yield from problems_of(partial(check_target, path, what))
    weights = options.weights_out
    if weights and Path(weights).exists() and not options.force:
        yield Problem(f"weights {weights}", "exists", "Choose another name, or let it be replaced by --force.")
    if options.output:
        yield from place_problems(options.output, options.force)


def _optimizer_problems(options: argparse.Namespace) -> Iterator[Problem]:
    from ..bundle.run.losses import loss_of
    from ..bundle.run.optimizers import OptimizerOptions

    def optimizer() -> Any:
        momentum = 0.0 if options.momentum is None else options.momentum
        return OptimizerOptions(options.optimizer, options.learning_rate, momentum, weight_decay=options.weight_decay)

    yield from problems_of(lambda: loss_of(options.loss))
    yield from problems_of(optimizer)


def _metrics_file(options: argparse.Namespace) -> Path:
    return Path(options.metrics) if options.metrics else Path(options.checkpoint).with_suffix(".jsonl")


def _asked(options: argparse.Namespace, trainer: Trainer, samples: int) -> dict[str, Any]:
    """What the metrics' first line says."""
    names = ("bundle", "epochs", "batch_size", "loss", "loss_output", "seed")
    return {**{n: getattr(options, n) for n in names}, "samples": samples, "optimizer": asdict(trainer.options)}


def _require_same(before: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> None:
    """A training goes on with the batches and the loss that it began with; the checkpoint has the optimizer's options.

    Raises:
        OptionError: with every option that is another.
    """
    fixed = ("batch_size", "loss", "loss_output", "seed", "samples")
    changed = [n for n in fixed if before is not None and before.get(n) != asked[n]]
    if before is not None and changed:
        raise OptionError(
            Problem(
                "samples" if n == "samples" else f"option --{n.replace('_', '-')}",
                f"is {asked[n]}, and the training began with {before.get(n)}",
                "Resume it with the same, or begin anew by --force.",
            )
            for n in changed
        )
