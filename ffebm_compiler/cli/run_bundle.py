"""``ffebm run``: a bundle on inputs from files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import OptionError, Problem, problems_of, shown
from ..solve import Relaxation
from .arrays import check_results_file, named_results, precision_of, read_inputs, write_results
from .checks import relaxation_line

if TYPE_CHECKING:
    from ..bundle.run import Runtime


def run_bundle(options: argparse.Namespace) -> int:
    """Prints what the model gives, and how its blocks settled."""
    OptionError.raise_if(_problems(options))
    model = loaded(options)
    positional, named = read_inputs(options.input, precision_of(model.model.network))
    results = named_results(model.eval()(*positional, **named))
    written = [write_results(Path(options.output), results)] if options.output else []
    print(_table(results, model.relaxation), *written, sep="\n")
    return 0


def loaded(options: argparse.Namespace) -> Runtime:
    from ..bundle import run as runtime

    chip = {"hardware": options.hardware, "chip_seed": options.chip_seed, "noise_seed": options.noise_seed}
    on_chip = chip if options.blocks == "analog-emu" else {}
    return runtime.load(options.bundle, options.blocks, threads=options.threads, **on_chip)


def _problems(options: argparse.Namespace) -> Iterator[Problem]:
    if not options.input:
        yield Problem("option --input", "is missing: there is nothing to run on", "For example --input x.npy.")
    if options.threads is not None and options.threads < 1:
        yield Problem("option --threads", f"is {options.threads}", "Give a whole number from 1.")
    if options.blocks != "analog-emu":
        given = (("hardware", options.hardware), ("chip-seed", options.chip_seed), ("noise-seed", options.noise_seed))
        for name in [n for n, value in given if value]:
            yield Problem(f"option --{name}", "is given, but there is no chip", "Add --blocks analog-emu.")
    if options.output:
        yield from problems_of(lambda: check_results_file(Path(options.output)))


def _table(results: Mapping[str, Tensor], relaxations: tuple[Relaxation, ...]) -> str:
    lines = [f"{name}: {str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for name, t in results.items()]
    lines += map(relaxation_line, relaxations)
    return shown("\n".join(lines))
