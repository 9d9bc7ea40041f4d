"""Reading calls."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrizations

import ffebm_compiler as fc


def test_reading_a_parametrized_layer_does_not_compute_its_weight() -> None:
    """A spectral norm takes a power iteration, and moves its buffers, at each read in training mode."""
    torch.manual_seed(0)
    net = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 5)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(5, 3))
    )
    before = {k: v.clone() for k, v in net.state_dict().items()}
    model = fc.convert(net.train(), block_size=1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [b.layers for b in model.blocks] == [("0",), ("2",)]


def test_block_size_one_equals_hardsigmoid_to_the_last_bit() -> None:
    """(a/6 + 1/2) rounds otherwise than PyTorch's own, and a batch norm above makes much of it."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(40, 40), nn.Hardsigmoid()), torch.randn(50, 40)
    assert torch.equal(fc.convert(net, block_size=1)(x), net(x))
