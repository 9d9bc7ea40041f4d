"""``ffebm compile``: a model as a bundle, with a bar over the graphs that it takes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn
from tqdm import tqdm

from ..errors import OptionError, Problem, problems_of
from ..files import check_target
from ..model.converted_module import runner_of
from .arrays import in_precision, precision_of, read_array
from .checks import guessed_inputs
from .conversion import converted, example_inputs
from .load import load_model
from .subject import load_weights

SAMPLES = 4
"""In an example that nobody has asked for."""


def compile_bundle(options: argparse.Namespace) -> int:
    """Writes the bundle; what stands in the way is told before anything is."""
    from ..bundle.compile.model_bundle import steps_of, write_bundle_of
    from ..bundle.compile.options import BundleOptions, place_problems

    OptionError.raise_if([*place_problems(options.output, options.force), *_problems(options)])
    network = load_model(options.model)
    if options.weights:
        load_weights(network, Path(options.weights))
    inputs = _examples(network, options)
    model = converted(network, options, inputs)
    runner = runner_of(model)
    how = BundleOptions(
        options.hardware, options.chip_seed, "skip" if options.skip_unexportable else "refuse", options.force
    )
    with tqdm(total=steps_of(runner, how), unit="step", disable=None, leave=False) as bar:

        def tell(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        written = write_bundle_of(runner, options.output, inputs, how, tell)
    print(f"{written}: {size(written)}")
    if options.onnx:
        print(model.export_onnx(options.onnx, inputs))
    return _judged(written)


def _judged(written: Path) -> int:
    """Runs what was written against what the model gave: exit status 1 if a check fails."""
    from ..bundle.run.verify import verify

    verification = verify(written)
    for check in verification.checks:
        if not check.ok or check.left_out:
            print(f"{check.name}: {check.verdict}")
    print(verification.verdict)
    return 0 if verification.ok else 1


def _problems(options: argparse.Namespace) -> Iterator[Problem]:
    """Of the options that only this command has."""
    if options.input and options.input_shape:
        yield Problem("options --input and --input-shape", "are both given", "Give one of them.")
    if options.onnx:
        yield from problems_of(lambda: check_target(options.onnx, "file"))


def _examples(network: nn.Module, options: argparse.Namespace) -> tuple[Tensor, ...]:
    """The files of ``--input``, or random ones, several samples: the size of a single one looks like a constant."""
    if options.input:
        files = (read_array(Path(file), f"input {file}") for file in options.input)
        return tuple(in_precision(x, precision_of(network)) for x in files)
    single = all(sizes[0] == 1 for sizes, _ in options.input_shape)
    random = example_inputs(options, SAMPLES if single else None) or guessed_inputs(network, SAMPLES, options.seed)
    return tuple(in_precision(x, precision_of(network)) for x in random)


def size(path: Path) -> str:
    """How many files and bytes."""
    files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
    total = sum(p.stat().st_size for p in files)
    told = f"{total / 1e6:.1f} MB" if total >= 1e6 else f"{total / 1e3:.1f} kB"
    return f"{len(files)} files, {told}" if path.is_dir() else told
