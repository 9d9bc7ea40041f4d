"""A bundle as an ff-EBM: the torch executor over digital parts in onnxruntime, without automatic differentiation.

Relaxations and nudged phases take the derivatives of a block's interaction from those of its operations
(:mod:`ffebm_compiler.solve.derivatives.explicit`). The blocks were verified when the bundle was compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...backends import FFEBM
from ...codegen.bundle_code import bundle_training_code
from ...compiled import Compiled, ModeProgram
from ...errors import InputError, OptionError, close_matches
from ...estimate import ESTIMATORS, CenteredEP, Estimator, OneSidedEP, TangentEP
from ...model.execution import Execution
from ...model.gain_store import Measured
from ...passes.calling import itself
from ...passes.stages import Signature
from ...solve import Gains, Tolerance
from ..format.calls import bound_call
from ..format.contents import Contents, Mode
from .network import StandIn

ESTIMATOR_NAMES: Mapping[str, type] = {e.__name__: e for e in ESTIMATORS}

WITHOUT_DIFFERENTIATION = (CenteredEP, OneSidedEP, TangentEP)
"""The estimators that need no automatic differentiation."""


class BundleModel(FFEBM):
    """A loaded bundle on the torch executor."""

    def verify_block(self, block: Any, bound: Any, states: Any, relaxation: Any = None) -> None:
        """Done when the bundle was compiled."""

    def _compare_once(self, args: Any, kwargs: Any) -> None:
        """Done when the bundle was compiled, which is without the model's code."""

    @property
    def training_code(self) -> str:
        """The source of ``training_step(model, x, y, loss)``, which trains without automatic differentiation."""
        return code_of(self, self.execution.estimator)

    def to_feedforward(self) -> nn.Module:
        """Not of a bundle, which does not hold the model's code."""
        raise OptionError.at(
            "to_feedforward",
            f"a bundle does not hold the code of {type(self.network).__name__}",
            "Make the model and call net.load_state_dict(runtime.state_dict()).",
        )

    def write_training_loop(self, path: str | os.PathLike[str], model: str | None = None) -> Path:
        """Not of a bundle, which holds its own."""
        raise OptionError.at(
            "write_training_loop", "the bundle has a training_loop.py", "Run that, or runtime.trainer()."
        )


def code_of(model: FFEBM, estimator: Estimator | None) -> str:
    """The generated training step of a model over a stand-in network; an estimator of None is a chip's own."""
    program = model.compiled.modes[True].program
    weights = {b.name: None if (g := model.gains(b)) is None else g.layer_weights for b in program.energy_blocks}
    computes = bool(getattr(model.network, "computed", ()))
    return bundle_training_code(program, type(model.network).__name__, estimator, weights, computes)


def compiled_of(contents: Contents, network: StandIn) -> Compiled:
    """What a backend lowers: the bundle's programs over the stand-in network."""
    modes = {training: _mode_program(mode, contents.name) for training, mode in contents.modes.items()}
    return Compiled(network, modes, contents.options, (), contents.hidden)


@dataclass(frozen=True)
class _BundleCall:
    """A call of the model as the bundle describes it."""

    mode: Mode
    name: str

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(bound_call(self.mode, args, kwargs, self.name).values())


def _mode_program(mode: Mode, name: str) -> ModeProgram:
    program = replace(mode.program, output=mode.result)
    return ModeProgram(program, Signature(program.inputs, _BundleCall(mode, name), itself), "bundle")


def execution_of(contents: Contents) -> Execution:
    """How the bundle says that its model runs; InputError if no model can run so."""
    given = contents.execution
    try:
        estimator = _estimator(given["estimator"])
        return Execution(estimator, Tolerance(given["tolerance"], given["max_sweeps"]), given["loop_gain"])
    except (OptionError, InputError) as failure:
        raise InputError(failure.problems) from failure
    except (KeyError, TypeError) as failure:
        raise InputError.at(
            "execution of the bundle", f"is damaged: {failure}", "Compile the bundle again."
        ) from failure


def _estimator(given: Mapping[str, Any]) -> Estimator:
    name = str(given["name"])
    if name not in ESTIMATOR_NAMES:
        remedy = f"{close_matches(name, [*ESTIMATOR_NAMES])} Give another: load(path, estimator=...)."
        raise InputError.at("estimator of the bundle", f"is {name!r}", remedy)
    made: Estimator = ESTIMATOR_NAMES[name](**given["options"])
    return made


def require_no_differentiation(estimator: Estimator) -> None:
    """Refuses estimators that differentiate automatically, where the digital parts do not.

    Raises:
        OptionError: with one that does not.
    """
    if not isinstance(estimator, WITHOUT_DIFFERENTIATION):
        raise OptionError.at(
            "option estimator",
            f"is {type(estimator).__name__}, which differentiates the relaxation automatically; "
            "a bundle trains without",
            "Give fc.CenteredEP(), fc.OneSidedEP() or fc.TangentEP(): runtime.load(path, estimator=fc.CenteredEP()).",
        )


def take_gains(model: FFEBM, gains: Mapping[str, Gains]) -> None:
    """Gives a model the reverse gains that were saved beside its weights, from which the next training step goes on."""
    weights = model.fingerprints()
    model.gain_store.forget()
    for key, found in gains.items():
        name, _, loop_gain = key.rpartition("|")
        of = None if found.outdated else weights.get(name)
        model.gain_store.load((name, float(loop_gain)), Measured(replace(found, outdated=False), of, None))


Step = Callable[[FFEBM, Any, Any, Any], Tensor]


def training_step_of(code: str) -> Step:
    """The function that generated code defines."""
    namespace: dict[str, Any] = {"__name__": "ffebm_training_step"}
    exec(compile(code, "<training_code>", "exec"), namespace)
    step: Step = namespace["training_step"]

    def run(model: FFEBM, x: Any, y: Any, loss: Any) -> Tensor:
        with torch.no_grad():
            return step(model, x, y, loss)

    return run
