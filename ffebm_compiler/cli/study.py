"""``ffebm study``: options to a study, and what it prints."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..api import convert
from ..backends import FFEBM
from ..errors import InputError, OptionError, Problem, close_matches
from ..hardware import Hardware
from ..hardware.documents import to_dict
from ..hardware.presets import preset
from ..study import (
    MOST,
    Axis,
    Effort,
    Folder,
    Record,
    Samples,
    Spread,
    Study,
    check_plots,
    count,
    draw,
    impossible,
    load_npz,
    parse_sweeps,
    points,
    run,
    samples_from,
    shown,
    summary,
    versions,
)
from .checks import guessed_inputs
from .load import load_attribute, load_model

ROWS = 40
"""The most settings that are printed; all are in summary.csv."""

SHOWN = ("accuracy", "agreement", "output_error", "residual", "sweeps", "cosine_worst", "energy", "latency")


@dataclass(frozen=True)
class NamedSubject:
    """A model and its data by name, made anew in every process.

    Attributes:
        model: ``module:factory``.
        weights: a file of trained ones.
        data: an ``.npz`` file or ``module:factory``; random inputs of the given shapes without it.
        shapes: of random inputs, the batch first; for whole numbers, with what they are below.
        seed: of the model's initial weights and of random inputs.
        conversion: options of :func:`ffebm_compiler.convert`.
    """

    model: str
    weights: str | None
    data: str | None
    shapes: tuple[tuple[tuple[int, ...], int | None], ...]
    seed: int
    conversion: Mapping[str, Any] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Without the network, which every process makes."""
        return {k: v for k, v in self.__dict__.items() if k != "network"}

    @cached_property
    def network(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = load_model(self.model)
        if self.weights is not None:
            load_weights(network, Path(self.weights))
        return network

    def convert(self, conversion: Mapping[str, Any]) -> FFEBM:
        return convert(self.network, **{**self.conversion, **conversion})

    def samples(self, needed: int) -> Samples:
        if self.data is None:
            return Samples(self._random(needed))
        if self.data.endswith(".npz"):
            return load_npz(Path(self.data))
        return _made(self.data, self.seed)

    def _random(self, needed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(self.seed)
        if not self.shapes:
            return guessed_inputs(self.network, needed, self.seed)
        return tuple(
            torch.randn(shape, generator=generator)
            if below is None
            else torch.randint(below, shape, generator=generator)
            for shape, below in (((needed, *sizes[1:]), below) for sizes, below in self.shapes)
        )


# --- the command ------------------------------------------------------------------------------------------


def study(options: argparse.Namespace) -> int:
    """Runs or goes on with the study; exit status 1 if points failed, 130 if interrupted."""
    axes, base = _asked(options)
    wanted = points(axes, options.one_at_a_time, options.chips)
    effort = Effort(options.calibrate, options.samples, options.gradient_samples, options.batch, options.seed)
    subject = _subject(options)
    trial = Study(subject, base, effort, {}).bench()
    digital = trial.digital()  # what is wrong with model or data is told now, once
    plan = Study(subject, base, effort, trial.fingerprint())
    path = Path(options.output)
    with Folder(path, _configuration(options, plan, axes, digital)) as folder:
        try:
            _run(plan, folder, wanted, options.jobs)
        except KeyboardInterrupt:
            folder.write_tables([a.name for a in axes])
            left = len(folder.left(wanted))
            print(
                f"ffebm: interrupted: {len(wanted) - left} of {len(wanted)} points are in {path}. "
                "Run the same command again to go on.",
                file=sys.stderr,
            )
            return 130
        return _finish(options, folder, axes, wanted, digital)


def _asked(options: argparse.Namespace) -> tuple[tuple[Axis, ...], Hardware]:
    """Sweeps and base chip; everything that is wrong with the options at once, before any work."""
    problems: list[Problem] = []
    axes = _collected(lambda: parse_sweeps(options.sweep), problems) or ()
    base = _collected(lambda: preset(options.hardware), problems)
    problems += _option_problems(options, axes)
    if not options.no_plots:
        _collected(check_plots, problems)
    if not problems and base is not None and (failure := impossible(axes, options.one_at_a_time, base)) is not None:
        problems += failure.problems
    if problems or base is None:
        raise OptionError(problems)
    return axes, base


def _collected(make: Callable[[], Any], problems: list[Problem]) -> Any:
    try:
        return make()
    except OptionError as failure:
        problems += failure.problems
        return None


def _option_problems(options: argparse.Namespace, axes: Sequence[Axis]) -> Iterator[Problem]:
    if not options.sweep:
        yield Problem(
            "option --sweep", "is missing: there is nothing to study", "For example --sweep read_noise=0:0.1:11."
        )
    for name in ("chips", "jobs"):
        if getattr(options, name) < 1:
            yield Problem(f"option --{name}", f"is {getattr(options, name)}", "Give a whole number from 1.")
    number = count(axes, options.one_at_a_time, max(options.chips, 1))
    if number > MOST:
        yield Problem(
            "option --sweep", f"makes {number:,} points", f"At most {MOST:,}: fewer values, or --one-at-a-time."
        )
    if options.block_sizes and any(a.name == "block_size" for a in axes):
        yield Problem("option --block-sizes", "is given while block_size is swept", "Leave one of them out.")


def _subject(options: argparse.Namespace) -> NamedSubject:
    names = ("block_size", "block_sizes", "digital", "analog", "norm", "loop_gain", "tolerance", "max_sweeps")
    conversion = {name: getattr(options, name) for name in names}
    shapes = tuple((tuple(sizes), below) for sizes, below in options.input_shape)
    return NamedSubject(options.model, options.weights, options.data, shapes, options.seed, conversion)


def _configuration(
    options: argparse.Namespace, plan: Study, axes: Sequence[Axis], digital: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain values: all that the results depend on, and what they were made with."""
    subject = plan.subject
    assert isinstance(subject, NamedSubject)
    effort = {f: getattr(plan.effort, f) for f in plan.effort.__dataclass_fields__}
    return {
        "model": subject.model,
        "weights": subject.weights,
        "data": subject.data or "random",
        "fingerprint": dict(plan.fingerprint),
        "conversion": dict(subject.conversion),
        "hardware": to_dict(plan.base),
        "sweeps": {a.name: list(a.values) for a in axes},
        "one_at_a_time": options.one_at_a_time,
        "effort": effort,
        "digital": dict(digital),
        "chips": options.chips,
        "versions": versions(),
    }


def _run(plan: Study, folder: Folder, wanted: Sequence[Any], jobs: int) -> None:
    left = len(folder.left(wanted))
    done = len(wanted) - left
    if done:
        print(f"going on: {done} of {len(wanted)} points are done", file=sys.stderr)
    with tqdm(total=len(wanted), initial=done, unit="point", disable=None if left else True) as bar:

        def tell(record: Record) -> None:
            bar.set_postfix_str(f"{record.point.key}{' FAILED' if record.error else ''}"[:60], refresh=False)
            bar.update()

        run(plan, folder, wanted, jobs, tell)


def _finish(
    options: argparse.Namespace, folder: Folder, axes: Sequence[Axis], wanted: Sequence[Any], digital: Mapping[str, Any]
) -> int:
    """Tables, plots, and what the terminal shows."""
    folder.write_tables([a.name for a in axes])
    records = [r for p in wanted if (r := folder.records.get(p.key)) is not None]
    found = summary(records)
    print(_table(axes, found, digital))
    if not options.no_plots:
        title = f"{options.model} on {options.hardware}, {options.chips} chip{'s' if options.chips > 1 else ''}"
        draw(folder.path, axes, options.one_at_a_time, found, title, digital)
    print(f"{folder.path}: {', '.join(sorted(p.name for p in folder.path.iterdir()))}")
    failed = [r for r in records if r.error is not None]
    if failed:
        print(f"ffebm: {len(failed)} of {len(records)} points failed, the first: {failed[0].error}", file=sys.stderr)
    return 1 if failed else 0


def _table(axes: Sequence[Axis], found: Mapping[Any, Mapping[str, Spread]], digital: Mapping[str, Any]) -> str:
    """Medians over the chips, a row a setting."""
    columns = [m for m in SHOWN if any(m in spreads for spreads in found.values())]
    rows = [["digital model", *(_cell(digital.get(m)) for m in columns)]]
    for settings, spreads in [*found.items()][:ROWS]:
        told = " ".join(f"{n}={shown(v)}" for n, v in settings) or "base"
        rows.append([told, *(_cell(spreads[m].median if m in spreads else None) for m in columns)])
    table = [["median over the chips", *columns], *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns) + 1)]
    lines = ["  ".join(c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))) for r in table]
    more = len(found) - ROWS
    return "\n".join(lines + ([f"... and {more} more in summary.csv"] if more > 0 else []))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


# --- weights and data -------------------------------------------------------------------------------------


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict, by itself or under ``model`` or ``state_dict`` of a checkpoint; nothing is unpickled but tensors.

    Raises:
        InputError: with every name and shape that does not fit.
    """
    where = f"weights {path}"
    found = _state_dict(_loaded(path, where), where)
    problems = [*_misfits(network.state_dict(), found, where)]
    if problems:
        raise InputError(problems)
    network.load_state_dict(found)


def _loaded(path: Path, where: str) -> Any:
    if not path.is_file():
        raise InputError(
            Problem(where, "is a folder" if path.is_dir() else "does not exist", "Name a file of torch.save.")
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:  # of many kinds, by the format and what is wrong with it
        kind = "" if zipfile.is_zipfile(path) else " It is no file of torch.save."
        raise InputError(
            Problem(
                where,
                f"can't be loaded as weights: {type(failure).__name__}.{kind}",
                "Save the tensors alone: torch.save(net.state_dict(), path). Whole models are refused, as they would be unpickled.",
            )
        ) from failure


def _state_dict(found: Any, where: str) -> dict[str, Tensor]:
    for candidate in (found, *(found.get(k) for k in ("state_dict", "model") if isinstance(found, Mapping))):
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return dict(candidate)
    raise InputError(Problem(where, "holds no state dict", "Save one: torch.save(net.state_dict(), path)."))


def _misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> Iterator[Problem]:
    for name in wanted.keys() - found.keys():
        yield Problem(where, f"has no {name}", close_matches(name, sorted(found.keys() - wanted.keys()) or list(found)))
    for name in sorted(found.keys() - wanted.keys()):
        yield Problem(where, f"has {name}, which the model has not", close_matches(name, list(wanted)))
    for name, tensor in found.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            shapes = f"{name} has the shape {tuple(tensor.shape)}, in the model {tuple(wanted[name].shape)}"
            yield Problem(where, shapes, "Name the factory that these weights were trained with.")
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            yield Problem(where, f"{name} has values that are NaN or infinite", "Take a checkpoint from before that.")


def _made(target: str, seed: int) -> Samples:
    """What a data factory returns, with the random numbers of the seed."""
    where = f"data {target!r}"
    factory = load_attribute(target, "data")
    if not callable(factory):
        return samples_from(factory, where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = factory()
        except Exception as failure:  # the user's own code
            what = f"making it failed: {type(failure).__name__}: {failure}"
            raise InputError(Problem(where, what, "Fix that first; --traceback shows where.")) from failure
    return samples_from(made, where)
