"""Writes a converted model as one ONNX file for any onnxruntime: relaxations are loops that stop by tolerance."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from ..errors import ConvergenceWarning, OptionError, Problem
from ..files import check_target, write_whole
from ..ir import EnergyBlock
from ..model.example_call import example_of, size_problems
from ..model.runner import Runner
from ..model.stateful import refuse_stateful
from ..onnx.difference import difference, worst
from ..onnx.model import Model
from ..onnx.result import named_leaves
from ..onnx.session import session
from ..onnx.whole_file import export_whole
from ..passes import State
from ..solve import contraction_of
from ..torch_private import tree_leaves
from ..train.program_pass import Values, run_program
from .torch_ep import private_copy

LOOPS = "2.11"
"""The version of torch whose torch.onnx is the first to translate while_loop."""


def export_model(model: Runner, path: str | os.PathLike[str], example_inputs: Any, diagnostics: bool) -> Path:
    """Writes the whole model, in evaluation mode; see :meth:`FFEBM.export_onnx`.

    The work is done on a copy: the model's mode, records and gains stay as they are. Gains that it does not have yet
    are those that it will measure itself, since they depend on the weights alone.
    """
    target = check_target(path, "ONNX file")
    OptionError.raise_if([*size_problems(model), *_version_problems(model)])
    args, kwargs = example_of(example_inputs)
    own = private_copy(model)
    own.train(False)
    with torch.no_grad():
        own.ensure_gains(*args, **kwargs)
        example = own.bind_inputs(args, kwargs)
        state = State(own.network)
        recorded = _recorded(own, example)
        refuse_stateful(own, state)
        content = export_whole(_as_function(own, example), recorded, diagnostics)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the model's own inferences say it
            _check(own, content, example, dict(named_leaves(own.run(args, kwargs), "output")))
    return write_whole(target, content, "ONNX file")


def _version_problems(model: Runner) -> Iterator[Problem]:
    if torch.__version__ < LOOPS and any(b.has_feedback for b in model.program.energy_blocks):
        yield Problem(
            "export_onnx",
            f"writes relaxations as loops, which torch.onnx of torch {torch.__version__} has no translation for",
            f"Install torch {LOOPS} or later, or write a bundle: compile_to(path, example_inputs).",
        )


def _check(model: Runner, content: bytes, example: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The file computes what the executor does: an exporter may drop an option without a word.

    Raises:
        OptionError: it differs by more than rounding.
    """
    ready = session(onnx.load_model_from_string(content))
    names = [n for n, value in expected.items() if isinstance(value, Tensor) and bool(torch.isfinite(value).all())]
    feed = {i.name: t for i, t in zip(ready.get_inputs(), _arrays(example), strict=True)}
    found = [difference(a, expected[n], n) for n, a in zip(names, ready.run(names, feed), strict=True)] if names else []
    off = worst(iter(found))
    if off.largest > off.bound() and _has_one_equilibrium(model):
        what = f"its ONNX file differs from the executor by {off.largest:.1e} of the largest value in {off.where}"
        remedy = "Report this model: an operation is written wrongly. The bundle of model.compile_to says which."
        raise OptionError.at(f"model {type(model.network).__name__}", what, remedy)


def _has_one_equilibrium(model: Runner) -> bool:
    """Under unit feedback, or before convergence, rounding alone may lead elsewhere."""
    return model.execution.loop_gain is not None and all(r.converged for r in model.relaxation)


def _arrays(example: Mapping[str, Any]) -> list[Any]:
    leaves = tree_leaves(dict(example))
    return [v.detach().contiguous().numpy() for v in leaves if isinstance(v, Tensor)]


def _as_function(model: Runner, example: Mapping[str, Any]) -> Model:
    gains = model.all_gains()
    weights = {n: g.layer_weights for n, g in gains.items() if g is not None}
    contractions = {
        b.name: None if (g := gains[b.name]) is None else contraction_of(b, g) for b in model.program.energy_blocks
    }
    name, tolerance = type(model.network).__name__, model.execution.tolerance
    return Model(name, model.program, model.network, example, model.pack_output, weights, tolerance, contractions)


def _recorded(model: Runner, example: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of the program on the example, blocks without their feedback: of their shapes."""

    def fed_forward(block: EnergyBlock, values: Values) -> Mapping[str, Any]:
        return model.bound(block, values).feedforward()

    return run_program(model.program, model.network, dict(example), fed_forward)


__all__ = ["export_model"]
