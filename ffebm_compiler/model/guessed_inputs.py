"""An example input for a model that came without one: guessed from its first layer, for verification only."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_SIDES = (16, 28, 32, 8, 64, 224)


def candidates(network: nn.Module) -> Iterator[Tensor]:
    """Random inputs that the model's first layer would accept, likely sizes first."""
    first = next((m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    if first is None or parameter is None:
        return
    generator = torch.Generator().manual_seed(0)

    def sample(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator).to(parameter)

    if isinstance(first, nn.Linear):
        yield sample(first.in_features)
        return
    dimensions = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[
        next(c for c in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(first, c))
    ]
    for side in _SIDES if dimensions < 3 else (8, 16):
        yield sample(first.in_channels, *([side] * dimensions))
    for features in [m.in_features for m in network.modules() if isinstance(m, nn.Linear)][:1]:
        side = round(features ** (1 / dimensions))
        if side**dimensions == features:
            yield sample(first.in_channels, *([side] * dimensions))
