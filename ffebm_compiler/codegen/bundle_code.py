"""Emits the training step of a bundle: the chain of :mod:`.emit`, with digital parts that are ONNX graphs.

A bundle may come from anyone, and this code is run: what it takes from the bundle are the steps' names, which must be
the compiler's (``block1``, ``digital2``), values' names as string literals, and text in comments that can't end a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

from ..errors import InputError, Problem
from ..estimate import Estimator
from ..ir import Program
from .emit import DOCSTRING, TITLE, backward_chain, how, indent, inference_start, inference_steps, printable

HEADER = f'''{TITLE}Digital parts run in onnxruntime, forward and backward. Nothing is differentiated automatically.
"""

from ffebm_compiler.bundle.run.steps import DigitalStep, EnergyStep, WeightsStep, accumulate, loss_and_errors
'''


def bundle_training_code(
    program: Program,
    model_name: str,
    estimator: Estimator | None,
    layer_weights: Mapping[str, Mapping[str, float] | None],
    computes_weights: bool = False,
) -> str:
    """The source of ``training_step(model, x, y, loss)`` for a loaded bundle.

    Args:
        program: the ff-EBM in training mode, its digital parts calls of ONNX graphs.
        model_name: what to call the user's model.
        estimator: what runs in the blocks' backward; None is a chip's own.
        layer_weights: w_l by block, for the printed energies; None where they are not measured yet.
        computes_weights: whether weights are computed from others (weight_norm), by a graph of their own.

    Raises:
        InputError: a step has a name that the compiler does not give.
    """
    _check_names(program)
    header = HEADER.format(model=re.sub(r"\W", "_", model_name), how=how(estimator))
    if not computes_weights:
        header = header.replace(" WeightsStep,", "")
    what = "loss(outputs, y) the loss and its gradient in the outputs."
    lines = ["def training_step(model, x, y, loss):", *indent([line.format(loss=what) for line in DOCSTRING])]
    lines += indent(inference_start(program))
    if computes_weights:
        lines += indent(["# weights that are computed from others", "weights = WeightsStep(model)", ""])
    lines += indent(inference_steps(program, layer_weights, "EnergyStep", 'DigitalStep(model, "{name}", values)'))
    lines += indent(_LOSS)
    lines += indent(backward_chain(program, estimator))
    if computes_weights:
        lines += indent(["weights.vjp(error)", ""])
    lines += indent(["return value"])
    return header.rstrip() + "\n\n\n" + "\n".join(line.rstrip() for line in lines) + "\n"


def bundle_training_script(
    program: Program,
    model_name: str,
    estimator: Estimator,
    layer_weights: Mapping[str, Mapping[str, float] | None],
    computes_weights: bool = False,
) -> str:
    """The source of ``training_loop.py``: the training step, and a command line around it. Arguments as above."""
    code = bundle_training_code(program, model_name, estimator, layer_weights, computes_weights)
    _, _, body = code.partition('"""\n\n')
    imports, _, step = body.partition("\n\n\n")
    template = resources.files(__package__).joinpath("bundle_template.py.txt").read_text(encoding="utf-8")
    inputs = printable(", ".join(program.labels.get(n, n) for n in program.inputs))
    fields = {"@@IMPORTS@@": imports.strip(), "@@STEP@@": step.strip(), "@@INPUTS@@": re.sub(r"[\"\\]", "_", inputs)}
    return re.sub("@@[A-Z]+@@", lambda mark: fields[mark[0]], template)


def _check_names(program: Program) -> None:
    strange = [s.name for s in program if not re.fullmatch(r"(block|digital)[0-9]{1,9}", s.name)]
    if strange:
        raise InputError(
            Problem(f"step {name!r}", "has a name that the compiler does not give", "Compile the bundle again.")
            for name in strange
        )


_LOSS = (
    "# ---- loss " + "-" * 85,
    "value, error = loss_and_errors(model, values, y, loss)",
    "",
)


__all__ = ["bundle_training_code", "bundle_training_script"]
