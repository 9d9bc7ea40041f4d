"""A norm between two blocks, after a pooling, trains digitally: it must not slip into the block that reads it."""

from __future__ import annotations

import torch
from models import with_statistics
from torch import nn

import ffebm_compiler as fc


def pooled_stages(width: int = 4) -> nn.Sequential:
    def stage(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]

    return nn.Sequential(*stage(3), nn.MaxPool2d(2), nn.BatchNorm2d(width), *stage(width))


def test_pooling_and_norm_between_blocks_are_digital() -> None:
    model = fc.convert(with_statistics(pooled_stages()), block_size=2)
    digital = [o.label for block in model.program.digital_blocks for o in block.origins]
    assert digital == ["4", "5"]
    assert [b.size for b in model.program.energy_blocks] == [2, 2]
    assert not any(b.held_norms for b in model.program.energy_blocks)
    assert "before the first activation of a block" in model.program.digital_blocks[0].reasons["5"]


def test_such_a_norm_trains_with_batch_statistics() -> None:
    model = fc.convert(with_statistics(pooled_stages()), block_size=2).train()
    before = model.get_submodule("5").running_mean.clone()
    model(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(before, model.get_submodule("5").running_mean)


def test_held_norms_stay_in_the_block() -> None:
    model = fc.convert(with_statistics(pooled_stages()), block_size=2, norm="held")
    assert not model.program.digital_blocks
    assert [o.label for b in model.program.energy_blocks for o in b.held_norms] == ["5"]
