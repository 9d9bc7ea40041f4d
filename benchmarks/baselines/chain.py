"""Runs a converted program with any way of settling its blocks: digital parts as PyTorch, each energy-based block by an
operator.

An operator takes a block with its inputs, weights and layer weights, and returns its output states, differentiable in
the inputs and weights. Nothing of the library's own relaxation, displacement or estimators runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

import ffebm_compiler as fc
from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import BoundBlock, States
from ffebm_compiler.train import run_digital

Operator = Callable[[BoundBlock], States]
Settle = Callable[[EnergyBlock, Mapping[str, Any]], Mapping[str, Tensor]]
"""A block and the program's values so far in, states out, at least those that are read outside."""


def run(model: fc.FFEBM, x: Tensor, settle: Settle) -> Tensor:
    """The model's output with its blocks settled by ``settle``."""
    values = model.bind_inputs((x,), {})
    for step in model.program:
        if isinstance(step, EnergyBlock):
            states = settle(step, values)
            values.update({n: states[n] for n in step.outputs})
        else:
            values.update(run_digital(step, model.network, values))
    output: Tensor = model.pack_output(values)
    return output


def settled_by(model: fc.FFEBM, operator: Operator) -> Settle:
    """An operator at the reverse gains that the model has measured."""

    def settle(block: EnergyBlock, values: Mapping[str, Any]) -> States:
        gains = runner_of(model).gains(block)
        assert gains is not None, "measure the gains first: model.ensure_gains(x)"
        return operator(runner_of(model).bound(block, values).with_layer_weights(gains.layer_weights))

    return settle
