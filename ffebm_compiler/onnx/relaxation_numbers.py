"""The numbers of a block's relaxation as named tensors of the file: ``block1/tolerance``, ``block1/layer_weight/conv``.

Whoever has the file may change them there. Numbers in a graph's code would be rounded to float32 by the exporter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..ir import EnergyBlock
from ..solve import Contraction, Tolerance
from .stop import Stop

Labels = Mapping[str, str]
"""The user's names of values."""


def numbers_of(
    block: EnergyBlock,
    layer_weights: Mapping[str, float],
    tolerance: Tolerance,
    dtype: torch.dtype,
    labels: Labels,
    contraction: Contraction | None = None,
) -> dict[str, Tensor]:
    """By name in the file; none of a block that does not relax.

    Args:
        dtype: of the states.
        contraction: what the gains certify of a sweep.
    """
    if not block.has_feedback:
        return {}
    stop = Stop.of(tolerance.of(dtype), tolerance.max_sweeps, contraction, len(block.states))
    weights = {_layer_weight(block, n, labels): torch.tensor(w, dtype=dtype) for n, w in layer_weights.items()}
    return {**{f"{block.name}/{field}": v for field, v in stop._asdict().items()}, **weights}


def stop_in(numbers: Mapping[str, Tensor], block: EnergyBlock) -> Stop:
    """When a block's relaxation stops."""
    return Stop(*(numbers[f"{block.name}/{field}"] for field in Stop._fields))


def layer_weights_in(numbers: Mapping[str, Tensor], block: EnergyBlock, labels: Labels) -> dict[str, Tensor]:
    """w_l by state; none of a block that does not relax."""
    return {s.name: numbers[_layer_weight(block, s.name, labels)] for s in block.states} if block.has_feedback else {}


def _layer_weight(block: EnergyBlock, state: str, labels: Labels) -> str:
    return f"{block.name}/layer_weight/{labels.get(state, state)}"
