"""Writes a converted model as one ONNX file, which infers in any onnxruntime: relaxations are loops that stop by tolerance."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..export.model import Model
from ..export.whole_file import export_whole
from ..files import check_target, write_whole
from ..ir import EnergyBlock
from ..train import run_digital
from .bundle_options import example_of
from .bundle_writer import private_copy
from .torch_ep import FFEBM


def export_model(model: FFEBM, path: str | os.PathLike[str], example_inputs: Any, diagnostics: bool) -> Path:
    """Writes the whole model, in evaluation mode; see :meth:`FFEBM.export_onnx`.

    The work is done on a copy, so that the model's mode, records and gains stay as they are; gains that it does not have yet are
    those that it will measure itself, since they depend on the weights alone.
    """
    target = check_target(path, "ONNX file")
    args, kwargs = example_of(example_inputs)
    own = private_copy(model).eval()
    with torch.no_grad():
        own.ensure_gains(*args, **kwargs)
        example = own.bind_inputs(args, kwargs)
        content = export_whole(_as_function(own, example), _recorded(own, example), diagnostics)
    return write_whole(target, content, "ONNX file")


def _as_function(model: FFEBM, example: Mapping[str, Any]) -> Model:
    gains = {b.name: model.gains(b) for b in model.program.energy_blocks}
    weights = {n: g.layer_weights for n, g in gains.items() if g is not None}
    name = type(model.network).__name__
    return Model(name, model.program, model.network, example, model.pack_output, weights, model.execution.tolerance)


def _recorded(model: FFEBM, example: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of the program on the example, blocks without their feedback: of their shapes."""
    values = dict(example)
    for step in model.program:
        if isinstance(step, EnergyBlock):
            values.update(model.bound(step, values).feedforward())
        else:
            values.update(run_digital(step, model.network, values))
    return values


__all__ = ["export_model"]
