"""Writes a model's bundle: checked before the work, gathered on a private copy, written at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...backends.torch_ep import FFEBM, TorchEP
from ...errors import OptionError
from ...model.values import ordinary
from ..write.writing import write_bundle
from .gathering import Subject, contents_of, steps_of
from .options import BundleOptions, bundle_problems, example_of


def write_bundle_of(
    model: FFEBM,
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


def private_copy(model: FFEBM) -> FFEBM:
    """The model by itself, on the CPU, in the torch executor, with the gains that it has."""
    network = copy.deepcopy(model.network).cpu()
    own = TorchEP(model.execution).lower(replace(model.compiled, network=network))
    own.gain_store.take(model.gain_store)
    own.training = model.training
    return own


__all__ = ["BundleOptions", "steps_of", "write_bundle_of"]
