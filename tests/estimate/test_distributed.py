"""Data parallel training over two processes gives the gradient of one process on the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distributed import NETS, gradients, model_and_batch, work


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of PyTorch has no torch.distributed")
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (2, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in NETS:
        with torch.random.fork_rng():
            model, x = model_and_batch(name)
        for parameter, g in gradients(model, x).items():
            for found in ranks:
                assert torch.allclose(found[name][parameter], g, rtol=1e-7, atol=1e-9 * float(g.abs().max())), (
                    name,
                    parameter,
                )
