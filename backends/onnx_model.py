"""Writes a converted model as one ONNX file, which infers in any onnxruntime: relaxations are loops that stop by tolerance."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError, Problem
from ..export.model import export_whole
from ..export.whole import Model
from ..files import check_target, write_whole
from ..ir import EnergyBlock
from ..train import run_digital
from .torch_ep import FFEBM


def export_model(model: FFEBM, path: str | os.PathLike[str], example_inputs: Any, diagnostics: bool) -> Path:
    """Writes the whole model, in evaluation mode; see :meth:`FFEBM.export_onnx`."""
    target = check_target(path, "ONNX file")
    args, kwargs = _call(example_inputs)
    with _evaluating(model), torch.no_grad():
        model.ensure_gains(*args, **kwargs)
        whole = _as_function(model, model.bind_inputs(args, kwargs))
        content = export_whole(whole, _recorded(model, whole.example), diagnostics)
    return write_whole(target, content, "ONNX file")


def _call(example_inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), example_inputs
    return (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), {}


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a ``with``, each module's own mode after it."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


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
