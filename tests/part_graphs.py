"""Digital parts of models, exported, and values to run them on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import ffebm_compiler as fc
from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.onnx import FORWARD, TRAINING, VJP, ExportedPart
from ffebm_compiler.onnx.parts import export_parts
from ffebm_compiler.train import run_block, run_digital


def values_of(model: fc.FFEBM, args: tuple[Any, ...]) -> Mapping[str, Any]:
    """Every value of the present mode's program, on these arguments."""
    with torch.no_grad():
        values = model.bind_inputs(args, {})
        for step in model.program:
            results = (
                run_block(model.block_call(step, values))
                if isinstance(step, EnergyBlock)
                else run_digital(step, model.network, values)
            )
            values.update(results)
    return values


def another_batch(args: Any, generator: torch.Generator) -> Any:
    """Arguments of the same shapes but for the batch, which is larger."""

    def larger(x: Tensor) -> Tensor:
        found = torch.cat([x, x.flip(0), x[:1]])
        return found + 0.1 * torch.randn(found.shape, generator=generator) if x.is_floating_point() else found

    return tree_map_only(Tensor, larger, args)


def exported(
    model: fc.FFEBM | nn.Module, args: tuple[Any, ...], training: bool, block_size: int = 2
) -> tuple[fc.FFEBM, tuple[ExportedPart, ...]]:
    """The model in that mode, and every graph of it."""
    converted = model if isinstance(model, fc.FFEBM) else fc.convert(model, block_size)
    converted.train(training)
    kinds = (TRAINING, VJP) if training else (FORWARD,)
    values = values_of(converted, args)
    return converted, export_parts(converted.program, converted.network, values, kinds)
