"""Netlists of some blocks of a chip: those that are named, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import ffebm_compiler as fc


@pytest.fixture
def chip() -> fc.AnalogFFEBM:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 2), nn.Sigmoid()).eval()
    return fc.convert(net, block_size=1).lower(hardware="ideal").calibrate(torch.randn(5, 3))


def test_only_the_named_blocks_are_written(chip: fc.AnalogFFEBM, tmp_path: Path) -> None:
    names = [b.name for b in chip.program.energy_blocks]
    assert len(names) == 2
    assert [p.stem for p in chip.export_spice(tmp_path / "all")] == names
    assert [p.stem for p in chip.export_spice(tmp_path / "one", blocks=names[1:])] == names[1:]


def test_every_unknown_name_is_refused_at_once(chip: fc.AnalogFFEBM, tmp_path: Path) -> None:
    with pytest.raises(fc.OptionError) as raised:
        chip.export_spice(tmp_path / "none", blocks=["block9", "conv"])
    assert [p.what for p in raised.value.problems] == ["names 'block9'", "names 'conv'"]
    assert not (tmp_path / "none").exists()
