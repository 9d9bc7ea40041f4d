"""Writes a model's bundle: checked before the work, gathered on a private copy, written at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...backends.torch_ep import private_copy
from ...errors import OptionError
from ...model.example_call import example_of
from ...model.nested_values import ordinary
from ...model.runner import Runner
from ..write.writing import write_bundle
from .gathering import Subject, contents_of, steps_of
from .options import BundleOptions, bundle_problems


def write_bundle_of(
    model: Runner,
    path: str | os.PathLike[str],
    example_inputs: Any,
    options: BundleOptions,
    tell: Callable[[str], None] = lambda what: None,
) -> Path:
    """Writes the bundle of a model; see :meth:`FFEBM.compile_to`.

    Args:
        tell: called with what is done next.

    Raises:
        OptionError: with everything that stands in the way; nothing is written then.
    """
    OptionError.raise_if([*bundle_problems(model, path, example_inputs, options)])
    with torch.inference_mode(False):  # what is made in it can't be differentiated afterwards
        args, kwargs = ordinary(example_of(example_inputs))
        contents = contents_of(Subject(private_copy(model), args, kwargs, options, tell))
    return write_bundle(contents, path, options.overwrite)


__all__ = ["BundleOptions", "steps_of", "write_bundle_of"]
