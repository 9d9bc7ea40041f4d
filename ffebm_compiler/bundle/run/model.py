"""A bundle as an ff-EBM: the torch executor over digital parts in onnxruntime, without automatic differentiation.

Relaxations and nudged phases take the derivatives of a block's interaction from those of its operations
(:mod:`ffebm_compiler.solve.derivatives.explicit`). The blocks were verified when the bundle was compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ...backends.torch_ep import TorchEP
from ...codegen.bundle_code import bundle_training_code
from ...compiled import Compiled, ModeProgram
from ...errors import InputError, OptionError, Problem, close_matches
from ...estimate import ESTIMATORS, CenteredEP, Estimator, OneSidedEP, TangentEP
from ...ffebm import FFEBM
from ...model.bound_model import BoundModel
from ...model.converted_module import runner_of
from ...model.execution import Execution
from ...model.gain_store import Measured
from ...model.runner import Checks, Runner
from ...model.substrate import LayerWeights
from ...passes.calling import itself
from ...passes.stages import Signature
from ...solve import Gains, Tolerance
from ..format.calls import bound_call
from ..format.contents import Contents, Mode
from .network import StandIn, network_of
from .random_numbers import RandomNumbers

ESTIMATOR_NAMES: Mapping[str, type] = {e.__name__: e for e in ESTIMATORS}

WITHOUT_DIFFERENTIATION = (CenteredEP, OneSidedEP, TangentEP)
"""The estimators that need no automatic differentiation."""


class BundleParts(TorchEP):
    """The solver beside digital parts in onnxruntime, which no automatic differentiation passes."""

    refused = MappingProxyType(
        {
            "to_feedforward": Problem(
                "to_feedforward",
                "a bundle does not hold the code of its model",
                "Make the model and call net.load_state_dict(runtime.state_dict()).",
            ),
            "write_training_loop": Problem(
                "write_training_loop", "the bundle has a training_loop.py", "Run that, or runtime.trainer()."
            ),
        }
    )

    def training_code(self, model: BoundModel, weights_of: LayerWeights) -> str:
        """A step that trains without automatic differentiation."""
        return _code(model, weights_of, model.execution.estimator)


def loaded_model(
    contents: Contents, threads: int | None = None, estimator: Estimator | None = None
) -> tuple[FFEBM, RandomNumbers]:
    """A bundle on the torch executor, and where its random layers draw from.

    It was checked when it was compiled, with the model's code.
    """
    execution = execution_of(contents)
    if estimator is not None:
        execution = Execution(estimator, execution.tolerance, execution.loop_gain)
    random = RandomNumbers()
    network = network_of(contents, random, threads)
    model = FFEBM(Runner(compiled_of(contents, network), execution, BundleParts(), Checks()))
    take_gains(model, contents.gains)
    return model, random


def code_of(model: FFEBM, estimator: Estimator | None) -> str:
    """The generated training step of a model over a stand-in network; an estimator of None is a chip's own."""
    runner = runner_of(model)
    return _code(runner, runner.layer_weights, estimator)


def _code(model: BoundModel, weights_of: LayerWeights, estimator: Estimator | None) -> str:
    program, computes = model.compiled.modes[True].program, bool(getattr(model.network, "computed", ()))
    return bundle_training_code(program, type(model.network).__name__, estimator, weights_of(program), computes)


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
    block_gains = runner_of(model).block_gains
    weights = block_gains.weights()
    block_gains.store.forget()
    for key, found in gains.items():
        name, _, loop_gain = key.rpartition("|")
        of = None if found.outdated else weights.get(name)
        block_gains.store.load((name, float(loop_gain)), Measured(replace(found, outdated=False), of, None))


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
