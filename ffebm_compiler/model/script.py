"""The training script of a converted model: its generated code, its options, and where its original is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..codegen import training_code
from ..codegen.loop_script import training_script
from ..compiled import Compiled
from ..errors import OptionError, Problem
from ..ir import Program, Ref
from .execution import Execution

_OPTIONS = ("block_size", "block_sizes", "digital", "analog", "norm")


def script_of(compiled: Compiled, execution: Execution, factory: str | None) -> str:
    """The source of the script.

    Raises:
        OptionError: the conversion used rules or an estimator of the user's own, which a script can't spell, or the model
            returns several values.
    """
    mode, network = compiled.modes[True], compiled.network
    problems = [*_problems(compiled, execution, mode.program)]
    OptionError.raise_if(problems)
    code = training_code(mode.program, type(network).__name__, execution.estimator, {})
    options = {
        **_given(compiled.options),
        "loop_gain": execution.loop_gain,
        "tolerance": execution.tolerance.residual,
        "max_sweeps": execution.tolerance.max_sweeps,
    }
    return training_script(
        code,
        mode.program,
        factory or factory_of(network),
        options,
        execution.estimator_expression,
        mode.tracer != "torch.fx",
    )


def _problems(compiled: Compiled, execution: Execution, program: Program) -> Iterator[Problem]:
    where, remedy = "write_training_loop", "Call model.training_step in a loop of your own."
    if compiled.has_own_rules:
        yield Problem(where, "the conversion used rules=, which a script can't spell", remedy)
    if not type(execution.estimator).__module__.startswith("ffebm_compiler."):
        name = type(execution.estimator).__name__
        yield Problem(where, f"the estimator {name} is your own, which a script can't spell", remedy)
    output = program.output
    single = output[0] if isinstance(output, (tuple, list)) and len(output) == 1 else output
    if not isinstance(single, Ref):
        yield Problem(where, "the model returns several values, and a script can't know the loss of each", remedy)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: options[k] for k in _OPTIONS if options.get(k) not in (None, [])}


def factory_of(network: nn.Module) -> str | None:
    """``module:Class`` of a model that can be made without arguments."""
    cls = type(network)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty and p.kind not in kinds]
    if required or cls.__module__ == "__main__" or cls.__module__.startswith("torch.") or "<" in cls.__qualname__:
        return None
    return f"{cls.__module__}:{cls.__qualname__}"
