"""Weights that several processes share: optimizers and sharding that write them unseen, in a group of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import ffebm_compiler as fc
from ffebm_compiler.model.weight_range import require_whole

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3


@pytest.fixture(autouse=True)
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3))


def converted(net: nn.Module | None = None) -> fc.FFEBM:
    return fc.convert(network() if net is None else net, 3, loop_gain=0.1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()


def anew(state: dict[str, Tensor]) -> fc.FFEBM:
    net = network()
    net.load_state_dict(state)
    return converted(net)


def test_sharded_parameters() -> None:
    model = converted()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    train(model, torch.optim.AdamW(model.parameters(), 1e-2))
    state = {n: t.full_tensor() for n, t in model.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(model(X), anew(state)(X))
    model.reshard()
    assert "before the last change" in str(model.blocks[0].certificate), "they are sharded again, and can't be measured"


def test_a_sharded_optimizer() -> None:
    model = converted()
    data_parallel = DistributedDataParallel(model)
    train(data_parallel, ZeroRedundancyOptimizer(data_parallel.parameters(), torch.optim.AdamW, lr=1e-2))
    with torch.no_grad():
        assert torch.equal(model(X), anew(model.state_dict())(X))


def test_weights_that_stay_sharded_are_named() -> None:
    layer = nn.Linear(2, 2)
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(fc.InputError, match=r"weight 0\.weight: is sharded while a block reads it"):
        require_whole({"0.weight": layer.weight, "0.bias": torch.zeros(2)})
