"""One process of a distributed training step, in a module that spawned processes can import."""

from __future__ import annotations

import os

import torch
from models import Residual, mlp, vgg
from torch import Tensor, nn

import ffebm_compiler as fc

NETS = {"mlp": (mlp, (8, 8)), "vgg": (vgg, (8, 3, 8, 8)), "residual": (Residual, (8, 3, 8, 8))}


def model_and_batch(name: str) -> tuple[fc.FFEBM, Tensor]:
    torch.manual_seed(0)
    make, shape = NETS[name]
    return fc.convert(make().double(), block_size=3), torch.randn(shape, dtype=torch.float64)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model(x).square().sum(1).mean().backward()
    return {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{os.path.join(folder, 'meet')}", rank=rank, world_size=world
    )
    found = {}
    for name in NETS:
        model, x = model_and_batch(name)
        found[name] = gradients(nn.parallel.DistributedDataParallel(model), x.chunk(world)[rank])
    torch.save(found, os.path.join(folder, f"{rank}.pt"))
    # on a busy machine gloo's threads abort the process that leaves before the other one is done
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
