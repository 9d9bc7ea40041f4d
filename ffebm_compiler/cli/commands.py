"""What the commands do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..api import convert, explain
from ..backends import FFEBM
from ..view import Report, check_picture
from .bundles import inspect_bundle, verify_bundle
from .checks import check_model
from .compile_bundle import compile_bundle
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
    if inputs is None:
        return explain(network, **_conversion(options))
    model = _converted(network, options, inputs)
    _run(model, inputs)
    return model.report()


def _convert(options: argparse.Namespace) -> int:
    network, inputs = load_model(options.model), example_inputs(options)
    folder = write_folder(
        Path(options.output), options.force, lambda: _used(network, options, inputs), _factory(options.model)
    )
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0


def _used(network: nn.Module, options: argparse.Namespace, inputs: tuple[Tensor, ...] | None) -> FFEBM:
    """The converted model, its gains measured where there are example inputs."""
    model = _converted(network, options, inputs)
    if inputs is not None:
        _run(model, inputs)
    return model


def _factory(target: str) -> str:
    """The name as a script that stands elsewhere can use it."""
    place, _, name = target.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if place.endswith(".py") else target


def _draw(options: argparse.Namespace) -> int:
    check_picture(options.output)
    model = _converted(load_model(options.model), options, example_inputs(options))
    print(model.draw(options.output))
    return 0


def _check(options: argparse.Namespace) -> int:
    network = load_model(options.model)
    inputs = example_inputs(options, options.batch)
    report = check_model(
        network,
        inputs,
        options.batch,
        options.threshold,
        options.seed,
        lambda size, given: _converted(network, options, given, size),
    )
    print(report)
    return 0 if report.ok else 1


def _spice_check(options: argparse.Namespace) -> int:
    return spice_check(options, _converted, example_inputs)


def _compile(options: argparse.Namespace) -> int:
    return compile_bundle(options, _converted, example_inputs)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "explain": _explain,
    "convert": _convert,
    "draw": _draw,
    "check": _check,
    "study": study,
    "spice-check": _spice_check,
    "compile": _compile,
    "inspect": inspect_bundle,
    "verify": verify_bundle,
    "run": run_bundle,
    "train": train_bundle,
}


# --- shared -----------------------------------------------------------------------------------------------


def _conversion(options: argparse.Namespace) -> dict[str, Any]:
    names = ("block_size", "block_sizes", "digital", "analog", "norm", "loop_gain")
    return {name: getattr(options, name) for name in names}


def _converted(
    network: nn.Module, options: argparse.Namespace, inputs: tuple[Tensor, ...] | None, block_size: int | None = None
) -> FFEBM:
    given = _conversion(options)
    if block_size is not None:
        given |= {"block_size": block_size, "block_sizes": None}
    return convert(network, tolerance=options.tolerance, max_sweeps=options.max_sweeps, example_inputs=inputs, **given)


def _run(model: FFEBM, inputs: tuple[Tensor, ...]) -> None:
    """One pass, which measures the gains; in evaluation mode, so that no statistics move."""
    training = model.training
    model.eval()
    model.equilibrium(*inputs)
    model.train(training)


def example_inputs(options: argparse.Namespace, batch: int | None = None) -> tuple[Tensor, ...] | None:
    """Random inputs of the given shapes; ``batch`` replaces the number of samples."""
    if not options.input_shape:
        return None
    generator = torch.Generator().manual_seed(options.seed)
    shapes = [((batch, *sizes[1:]) if batch else sizes, below) for sizes, below in options.input_shape]
    return tuple(_sample(sizes, below, generator) for sizes, below in shapes)


def _sample(sizes: tuple[int, ...], below: int | None, generator: torch.Generator) -> Tensor:
    return (
        torch.randn(sizes, generator=generator) if below is None else torch.randint(below, sizes, generator=generator)
    )
