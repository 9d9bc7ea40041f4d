"""``ffebm study``: options to a study, and what it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..chip.hardware import Hardware
from ..chip.hardware.documents import to_dict
from ..chip.hardware.presets import preset
from ..errors import OptionError, Problem
from ..study import (
    METRICS,
    MOST,
    Axis,
    Effort,
    Folder,
    Record,
    Spread,
    Study,
    check_plots,
    count,
    draw,
    impossible,
    parse_sweeps,
    points,
    run,
    shown,
    summary,
    versions,
)
from ..tables import aligned
from .conversion import conversion_of
from .subject import NamedSubject

ROWS = 40
"""The most settings that are printed; all are in summary.csv."""

SHOWN = ("accuracy", "agreement", "output_error", "residual", "sweeps", "cosine_worst", "energy", "latency")


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
    conversion, shapes = conversion_of(options), tuple(options.input_shape)
    return NamedSubject(
        options.model, options.weights, options.data, shapes, options.seed, options.precision, conversion
    )


def _configuration(
    options: argparse.Namespace, plan: Study, axes: Sequence[Axis], digital: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain values: all that the results depend on, and what they were made with."""
    subject = plan.subject
    assert isinstance(subject, NamedSubject)
    return {
        "model": subject.model,
        "weights": subject.weights,
        "data": subject.data or "random",
        "fingerprint": dict(plan.fingerprint),
        "precision": subject.precision,
        "conversion": dict(subject.conversion),
        "hardware": to_dict(plan.base),
        "sweeps": {a.name: list(a.values) for a in axes},
        "one_at_a_time": options.one_at_a_time,
        "effort": asdict(plan.effort),
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
    summaries = summary(records)
    print(_table(axes, summaries, digital))
    if not options.no_plots:
        title = f"{options.model} on {options.hardware}, {options.chips} chip{'s' if options.chips > 1 else ''}"
        draw(folder.path, axes, options.one_at_a_time, summaries, title, digital)
    print(f"{folder.path}: {', '.join(sorted(p.name for p in folder.path.iterdir()))}")
    failed = [r for r in records if r.error is not None]
    if failed:
        print(f"ffebm: {len(failed)} of {len(records)} points failed, the first: {failed[0].error}", file=sys.stderr)
    return 1 if failed else 0


def _table(axes: Sequence[Axis], summaries: Mapping[Any, Mapping[str, Spread]], digital: Mapping[str, Any]) -> str:
    """Medians over the chips, a row a setting."""
    columns = [m for m in SHOWN if any(m in spreads for spreads in summaries.values())]
    known = any(digital.get(m) is not None for m in columns)
    rows = [["digital model", *(_cell(digital.get(m)) for m in columns)]] if known else []
    for settings, spreads in [*summaries.items()][:ROWS]:
        told = " ".join(f"{n}={shown(v)}" for n, v in settings) or "base"
        rows.append([told, *(_cell(spreads[m].median if m in spreads else None) for m in columns)])
    head = ["median over the chips", *map(_head, columns)]
    table = aligned([head, *rows], right=range(1, len(head)))
    more = len(summaries) - ROWS
    return table + (f"\n... and {more} more in summary.csv" if more > 0 else "")


def _head(metric: str) -> str:
    unit = METRICS[metric].unit
    return f"{metric} ({unit})" if unit else metric


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
