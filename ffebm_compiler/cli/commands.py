"""What each command does; larger ones have a file of their own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from ..api import explain
from ..view import Report, check_picture
from .checks import check_model
from .compile_bundle import compile_bundle
from .conversion import conversion_of, converted, example_inputs, measured
from .folder import write_folder
from .load import load_model
from .run_bundle import run_bundle
from .spice_check import spice_check
from .study import study
from .train_bundle import train_bundle


def _explain(options: argparse.Namespace) -> int:
    report = _report(options)
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    return 0


def _report(options: argparse.Namespace) -> Report:
    """Measured on the example inputs where there are any."""
    network, inputs = load_model(options.model), example_inputs(options)
    if inputs is not None:
        return measured(converted(network, options, inputs), inputs).report()
    asked = conversion_of(options)
    return explain(network, **{name: v for name, v in asked.items() if name not in ("tolerance", "max_sweeps")})


def _convert(options: argparse.Namespace) -> int:
    network, inputs = load_model(options.model), example_inputs(options)
    folder = write_folder(
        Path(options.output),
        options.force,
        lambda: measured(converted(network, options, inputs), inputs),
        _absolute(options.model),
    )
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0


def _absolute(target: str) -> str:
    """The model's name as a script that stands elsewhere can use it."""
    place, _, name = target.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if place.endswith(".py") else target


def _draw(options: argparse.Namespace) -> int:
    check_picture(options.output)
    model = converted(load_model(options.model), options, example_inputs(options))
    print(model.draw(options.output))
    return 0


def _check(options: argparse.Namespace) -> int:
    """Exit status 1 if a check fails."""
    report = check_model(load_model(options.model), options)
    print(report)
    return 0 if report.ok else 1


def _inspect(options: argparse.Namespace) -> int:
    from ..bundle import inspect

    holds = inspect(options.bundle)
    print(json.dumps(holds.to_dict(), indent=2) if options.json else holds.text())
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Exit status 1 if a check fails."""
    from ..bundle.run.verify import verify

    verdict = verify(options.bundle)
    print(json.dumps(verdict.to_dict(), indent=2) if options.json else verdict.text())
    return 0 if verdict.ok else 1


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "explain": _explain,
    "convert": _convert,
    "draw": _draw,
    "check": _check,
    "study": study,
    "spice-check": spice_check,
    "compile": compile_bundle,
    "inspect": _inspect,
    "verify": _verify,
    "run": run_bundle,
    "train": train_bundle,
}
