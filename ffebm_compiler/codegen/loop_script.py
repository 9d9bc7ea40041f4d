"""A complete training script around the generated training step: data, optimizer, checkpoints, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from ..ir import Program


def training_script(
    code: str, program: Program, factory: str | None, options: Mapping[str, Any], estimator: str, needs_example: bool
) -> str:
    """The source of the script.

    Args:
        code: the generated training step.
        program: the ff-EBM, for the check that the script still fits the model.
        factory: ``module:factory`` of the model, the default of ``--model``; None makes the option required.
        options: the options of ``convert``, as plain values.
        estimator: an expression that makes the estimator.
        needs_example: convert with a batch of the data as example inputs.
    """
    _, _, body = code.partition("import operator\n")
    imports, _, functions = body.partition("\n\n\n")
    template = _template("loop_template.py.txt")
    partition = {b.name: [t.origin.label for t in b.layers] for b in program.energy_blocks}
    arguments = [f"    {k}={v!r}," for k, v in options.items()] + [f"    estimator={estimator},"]
    fields = {
        "@@IMPORTS@@": "\n".join(
            line for line in imports.splitlines() if line.strip() and line.strip() != "import torch"
        ),
        "@@FUNCTIONS@@": functions.strip(),
        "@@PROCESSES@@": _template("loop_processes.py.txt").strip(),
        "@@FACTORY@@": repr(factory),
        "@@INPUTS@@": repr(tuple(program.labels[n] for n in program.inputs)),
        "@@PARTITION@@": _literal(partition),
        "@@OPTIONS@@": "\n".join(arguments),
        "@@NEEDS_EXAMPLE@@": repr(needs_example),
    }
    for mark, text in fields.items():
        template = template.replace(mark, text)
    return template


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _literal(partition: Mapping[str, list[str]]) -> str:
    return "{\n" + "".join(f"    {k!r}: {v!r},\n" for k, v in partition.items()) + "}"
