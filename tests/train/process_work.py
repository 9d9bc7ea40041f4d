"""What one process of a group does and finds, in a module that spawned processes can import."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of

X = torch.randn(10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(10) % 3


class Net(nn.Module):
    """With a norm, a tied layer, a parameter that nothing reads and buffers of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.tied, self.last = (
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )
        self.unread = nn.Parameter(torch.ones(3))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("small", torch.randn((), dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.first(x)))
        return self.last(torch.tanh(self.tied(torch.tanh(self.tied(h)))))  # type: ignore[no-any-return]


def made(seed: int) -> fc.FFEBM:
    torch.manual_seed(seed)
    return fc.convert(Net().double(), 3, loop_gain=0.1)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def gains(model: fc.FFEBM) -> list[Any]:
    return [
        g and (g.layer_weights, g.norms)
        for g in (runner_of(model).block_gains.store.find(b, 0.1) for b in model.program.energy_blocks)
    ]


def of_ddp(x: Tensor, y: Tensor) -> dict[str, Tensor | None]:
    model = made(0)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    F.cross_entropy(parallel(x), y).backward()
    return gradients(model)


def training(x: Tensor, y: Tensor, rank: int) -> dict[str, Any]:
    """Ten steps from weights that differ before the first."""
    model = made(rank)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    steps = []
    for _ in range(10):
        optimizer.zero_grad()
        with fc.synchronised(model):
            model.training_step(x, y, F.cross_entropy)
        steps.append((gradients(model), gains(model)))
        optimizer.step()
    return {"steps": steps, "state": model.state_dict()}


def refusal(attempt: Any) -> str:
    try:
        attempt()
    except fc.FFEBMError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def refusals(x: Tensor, y: Tensor, rank: int, world: int) -> dict[str, str]:
    model, chip = made(0), made(0).lower()
    namespace: dict[str, Any] = {}
    exec(model.training_code, namespace)
    other = nn.Linear(3, 2 + rank)
    words = nn.Embedding(4, 2, sparse=True)
    words(torch.tensor([rank])).sum().backward()

    def averaged(module: nn.Module) -> None:
        with fc.synchronised(module):
            pass

    def apart() -> None:
        with fc.unsynchronised():
            model.training_step(x, y, F.cross_entropy)
            chip.training_step(x, y, F.cross_entropy)

    def early() -> None:
        early = made(0)
        with fc.synchronised(early):
            early.training_step(x, y, F.cross_entropy)
            torch.optim.SGD(early.parameters(), 0.1, fused=True).step()

    def bounded() -> None:
        bounded = made(0)
        with fc.synchronised(bounded):
            for p in bounded.parameters():
                p.data.clamp_(-0.1, 0.1)
            bounded.training_step(x, y, F.cross_entropy)

    return {
        "early": refusal(early),
        "bounded": refusal(bounded),
        "step": refusal(lambda: model.training_step(x, y, F.cross_entropy)),
        "code": refusal(lambda: namespace["training_step"](model, x, y, F.cross_entropy)),
        "chip": refusal(lambda: chip.training_step(x, y, F.cross_entropy)),
        "other": refusal(lambda: averaged(other)),
        "sparse": refusal(lambda: averaged(words)),
        "apart": refusal(apart),
    }


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{os.path.join(folder, 'meet')}", rank=rank, world_size=world)
    x, y = X.chunk(world)[rank], Y.chunk(world)[rank]
    found = {"ddp": of_ddp(x, y), "training": training(x, y, rank), "refusals": refusals(x, y, rank, world)}
    torch.save(found, os.path.join(folder, f"{rank}.pt"))
    dist.barrier()  # on a busy machine gloo's threads abort the process that leaves before the other one is done
    dist.destroy_process_group()
