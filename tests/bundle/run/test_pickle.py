"""A loaded bundle is pickled: its graphs with it, its sessions made again."""

from __future__ import annotations

import pickle

import pytest
import torch
from runtimes import loaded
from torch import nn

import ffebm_compiler as fc


@pytest.mark.slow
def test_a_runtime_computes_the_same_in_either_mode() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LayerNorm(5), nn.Dropout(0.5), nn.Linear(5, 3))
    x = torch.randn(4, 4)
    runtime = loaded(fc.convert(net, 2), (x,))
    runtime(x)
    again = pickle.loads(pickle.dumps(runtime))
    assert type(again.model.network).__name__ == "Sequential"
    assert list(again.state_dict()) == list(runtime.state_dict())
    for mode in (False, True):
        for one in (runtime, again):
            one.train(mode)
        assert torch.equal(again(x), runtime(x))
