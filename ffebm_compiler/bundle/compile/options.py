"""How a bundle is asked for, and what is wrong with that: everything at once, before any work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...chip.hardware import Hardware
from ...chip.hardware.presets import preset
from ...chip.resistive.realisation import resistive_problems
from ...errors import OptionError, Problem, close_matches
from ...files import check_folder
from ...model.bound_model import BoundModel
from ...model.example_call import size_problems
from ...nests import tensors_in
from ...onnx import WEIGHTS
from ...rules import FORMS
from ..format.contents import PART_MODULE, Contents, Mode
from ..format.manifest import MANIFEST
from ..write.own_rules import own_rule_problems
from ..write.writing import PROGRAM, SUFFIX, check_bundle_target, is_archive

UNEXPORTABLE = ("refuse", "skip")

_OTHERS = (".zip", ".onnx", ".pt", ".pth", ".safetensors", ".json")
"""Endings by which nobody means a folder."""


@dataclass(frozen=True)
class BundleOptions:
    """How a bundle is written; see :meth:`FFEBM.compile_to`."""

    hardware: str | os.PathLike[str] | Hardware | None = None
    chip_seed: int = 0
    unexportable: str = "refuse"
    overwrite: bool = False

    @property
    def chip(self) -> Hardware | None:
        """What the chip is made of, if there is one."""
        return None if self.hardware is None else preset(self.hardware)


def bundle_problems(
    model: BoundModel, path: str | os.PathLike[str], example_inputs: Any, options: BundleOptions
) -> Iterator[Problem]:
    """Everything that stands in the way of a bundle and can be known before the work."""
    yield from place_problems(path, options.overwrite)
    yield from _example_problems(example_inputs)
    yield from _choice_problems(options)
    yield from _model_problems(model)
    yield from _chip_problems(model, options)


def place_problems(path: object, overwrite: bool) -> Iterator[Problem]:
    """What stands in the way of a bundle at this place."""
    if not isinstance(path, (str, os.PathLike)):
        what = f"is a {type(path).__name__}"
        yield Problem("option path", what, f"Give the path of a folder, or of a file NAME{SUFFIX}.")
        return
    target = Path(path)
    yield from _inside_another(target)
    if target.suffix in _OTHERS:
        yield Problem(
            f"bundle {target}", f"is named as a {target.suffix} file", f"Name a folder, or a file NAME{SUFFIX}."
        )
        return
    try:
        if is_archive(target):
            check_bundle_target(target, overwrite)
        else:
            check_folder(target, "a compiled bundle", MANIFEST, overwrite)
    except OptionError as failure:
        yield from failure.problems


def _inside_another(target: Path) -> Iterator[Problem]:
    """A bundle with a file too many is refused when it is read."""
    for folder in target.absolute().parents:
        if (folder / MANIFEST).is_file() and (folder / PROGRAM).is_file():
            yield Problem(f"bundle {target}", f"is inside the bundle {folder}", "Choose a place outside of it.")
            return


def _example_problems(given: Any) -> Iterator[Problem]:
    where = "option example_inputs"
    tensors = tensors_in(given)
    if not tensors:
        what = "is missing" if given is None else "holds no tensor"
        yield Problem(where, what, "Give a call of the model: a tensor, a tuple of arguments or a dict of keywords.")
        return
    sizes = [t.shape[0] for t in tensors if t.dim() > 0]
    if sizes and max(sizes) < 2:
        what = "has one sample, whose size can't be told from a constant" if max(sizes) else "has no sample"
        yield Problem(where, what, "Give a batch of two samples or more.")


def _choice_problems(options: BundleOptions) -> Iterator[Problem]:
    if options.unexportable not in UNEXPORTABLE:
        what = f"is {options.unexportable!r}"
        yield Problem("option unexportable", what, close_matches(str(options.unexportable), UNEXPORTABLE))
    seed = options.chip_seed
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
        yield Problem(
            "option chip_seed", f"is {seed!r}", "Give a whole number from 0: the same one gives the same chip."
        )
    elif options.hardware is None and seed:
        yield Problem("option chip_seed", "is given without hardware", "Say what the chip is made of: hardware='rram'.")


def _model_problems(model: BoundModel) -> Iterator[Problem]:
    """What no bundle can hold: operations of rules and an estimator of the user's own, and another bundle's parts."""
    if any(m.tracer == "bundle" for m in model.compiled.modes.values()):
        yield Problem("model", "comes from a bundle, which has no code to compile again", "Call runtime.save(path).")
        return
    modes = {training: Mode(mode.program, {}, None) for training, mode in model.compiled.modes.items()}
    yield from own_rule_problems(Contents(type(model.network).__name__, False, modes, {}, (), {}), FORMS)
    parts = {WEIGHTS, *(b.name for m in model.compiled.modes.values() for b in m.program.digital_blocks)}
    for name in sorted(PART_MODULE.format(name=p) for p in parts):
        if name in dict(model.network.named_children()):
            yield Problem(f"layer {name}", "has a name that a bundle gives to a digital part", "Rename the layer.")
    yield from size_problems(model)
    estimator = type(model.execution.estimator)
    if not estimator.__module__.startswith("ffebm_compiler."):
        what = f"the estimator {estimator.__name__} is your own, and a bundle holds no code"
        yield Problem("option estimator", what, "Convert with one of the library's, such as fc.CenteredEP().")


def _chip_problems(model: BoundModel, options: BundleOptions) -> Iterator[Problem]:
    try:
        chip = options.chip
    except OptionError as failure:
        yield from failure.problems
        return
    if chip is not None and chip.physics == "resistive":
        yield from (p for b in model.compiled.modes[False].program.energy_blocks for p in resistive_problems(b))
