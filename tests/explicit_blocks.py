"""The blocks of a model of the zoo, bound to what they read on its example call."""

from __future__ import annotations

import warnings

import torch
from models import ZOO, Entry
from torch import Tensor

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import AUTOMATIC, BoundBlock, Tolerance, relax
from ffebm_compiler.train import BlockCall

BY_NAME: dict[str, Entry] = {e.name: e for e in ZOO}


def calls(name: str, size: int = 3, dtype: torch.dtype = torch.float64, norm: str = "held") -> list[BlockCall]:
    """Every block's use in one evaluation of a zoo model, with the gains that it has there."""
    entry = BY_NAME[name]
    net, args = entry.build()
    args = torch.utils._pytree.tree_map_only(Tensor, lambda v: v.to(dtype) if v.is_floating_point() else v, args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        model = fc.convert(net.to(dtype), size, norm=norm, example_inputs=args if entry.export else None).eval()
        found: list[BlockCall] = []
        runner = runner_of(model)
        make = runner.block_call

        def listen(*given: object) -> BlockCall:
            found.append(make(*given))  # type: ignore[arg-type]
            return found[-1]

        runner.block_call = listen  # type: ignore[method-assign, assignment]
        with torch.no_grad():
            model(*args)
    return found


def wanted(call: BlockCall) -> list[str]:
    """All inputs, and the weights that are trained."""
    return [n for n, v in call.differentiable().items() if n in call.inputs or v.requires_grad]


def errors(call: BlockCall, states: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {n: states[n] for n in call.block.outputs}
    return {n: torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for n, v in shapes.items()}


def equilibrium(bound: BoundBlock, tolerance: Tolerance) -> dict[str, Tensor]:
    return relax(bound, tolerance, differentiation=AUTOMATIC).states


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest entry."""
    if not expected.numel():
        return 0.0
    return float((found - expected).abs().amax() / expected.abs().amax().clamp(min=1e-300))
