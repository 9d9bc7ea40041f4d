"""Loads a compiled bundle: ``runtime = ffebm_compiler.runtime.load("build.ffebm")``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...chip.hardware import Hardware
from ...errors import InputError, OptionError, Problem, close_matches
from ...estimate import Estimator
from ...ffebm import FFEBM
from ..compile.pages import CONDUCTANCES
from ..format.contents import Contents
from ..read.reading import read_bundle
from .model import loaded_model
from .random_numbers import RandomNumbers
from .runtime import Runtime

BLOCKS = ("torch-ep", "analog-emu")
"""What the blocks run on."""


def load(
    path: str | os.PathLike[str],
    blocks: str = "torch-ep",
    *,
    hardware: str | os.PathLike[str] | Hardware | None = None,
    chip_seed: int = 0,
    noise_seed: int = 0,
    threads: int | None = None,
    estimator: Estimator | None = None,
) -> Runtime:
    """A bundle, ready to infer and to train, in evaluation mode. Nothing in it is executed; all of it is checked.

    Args:
        path: the folder or the ``.ffebm`` file.
        blocks: what the energy-based blocks run on: ``"torch-ep"``, or ``"analog-emu"``, an emulated chip.
        hardware: of the emulated chip: a preset's name, a file, a :class:`ffebm_compiler.Hardware`, or ``"bundle"``,
            the chip that the bundle was compiled for, with its conductances.
        chip_seed, noise_seed: as in :meth:`FFEBM.lower`.
        threads: that onnxruntime may use; None is torch's number.
        estimator: of the blocks' gradients, instead of the bundle's.

    Raises:
        OptionError: with every option that can't be used.
        InputError: the bundle can't be read; names the files.
    """
    problems = [*_problems(blocks, hardware, chip_seed, noise_seed, threads)]
    OptionError.raise_if(problems)
    contents: Contents = read_bundle(path)
    runtime = runtime_of(contents, threads, estimator)
    if blocks == "torch-ep":
        return runtime
    runtime.model = _on_chip(runtime.model, contents, hardware, chip_seed, noise_seed)
    return Runtime(contents, runtime.model, random_of(runtime.model))


def runtime_of(contents: Contents, threads: int | None = None, estimator: Estimator | None = None) -> Runtime:
    """The runtime of a bundle's contents, its blocks on the torch executor."""
    model, random = loaded_model(contents, threads, estimator)
    return Runtime(contents, model, random)


def random_of(model: FFEBM) -> RandomNumbers:
    """Where a loaded model's random layers draw from."""
    found = model.network.random
    assert isinstance(found, RandomNumbers)
    return found


def _on_chip(
    model: FFEBM,
    contents: Contents,
    hardware: str | os.PathLike[str] | Hardware | None,
    chip_seed: int,
    noise_seed: int,
) -> FFEBM:
    if hardware != "bundle":
        return model.lower("analog-emu", hardware=hardware, chip_seed=chip_seed, noise_seed=noise_seed)
    if CONDUCTANCES not in contents.files:
        raise OptionError.at(
            "option hardware", 'is "bundle", which was compiled without hardware', 'Name some: hardware="rram".'
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, CONDUCTANCES)
        file.write_bytes(contents.files[CONDUCTANCES])
        try:
            return model.lower("analog-emu", chip=file, noise_seed=noise_seed)
        except InputError as failure:
            raise InputError(
                Problem(f"{CONDUCTANCES} of the bundle", p.what, "Compile the bundle again.") for p in failure.problems
            ) from failure


def _problems(
    blocks: object, hardware: object, chip_seed: object, noise_seed: object, threads: object
) -> Iterator[Problem]:
    if blocks not in BLOCKS:
        yield Problem("option blocks", f"is {blocks!r}", close_matches(str(blocks), BLOCKS))
    if threads is not None and (type(threads) is not int or threads < 1):
        yield Problem("option threads", f"is {threads!r}", "Give a whole number from 1, or None for torch's number.")
    chip_options = (("hardware", hardware, None), ("chip_seed", chip_seed, 0), ("noise_seed", noise_seed, 0))
    for name, value, default in chip_options:
        if blocks == "torch-ep" and value != default:
            yield Problem(f"option {name}", "is of emulated chips", 'Give blocks="analog-emu" too.')
