"""The training script of a converted model: its generated code, its options, and where its original is made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..compiled import Compiled
from ..errors import OptionError, Problem
from ..train import training_code
from ..train.loop_script import training_script
from .execution import Execution

_OPTIONS = ("block_size", "block_sizes", "digital", "analog", "norm")


def script_of(compiled: Compiled, execution: Execution, factory: str | None) -> str:
    """The source of the script.

    Raises:
        OptionError: the conversion used rules of the user's own, which a script can't spell.
    """
    if compiled.has_own_rules:
        raise OptionError(
            Problem(
                "write_training_loop",
                "the conversion used rules=, which a script can't spell",
                "Call model.training_step in a loop of your own.",
            )
        )
    mode, network = compiled.modes[True], compiled.network
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
