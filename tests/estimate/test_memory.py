"""Training memory does not grow with the number of sweeps; unrolling the relaxation does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import ffebm_compiler as fc


class Peak(TorchDispatchMode):
    """The largest number of bytes that were alive at once of all that was allocated inside."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(result):
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def peak(estimator: fc.Estimator, max_sweeps: int) -> int:
    """Of one training step whose relaxations never reach their tolerance."""
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(60, 60), nn.Tanh())))
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.mul_(1.5)
    model = fc.convert(net, block_size=5, loop_gain=None, tolerance=1e-30, max_sweeps=max_sweeps, estimator=estimator)
    x = torch.randn(64, 60)
    model(x).sum().backward()  # what is derived once is not the memory of a step
    model.zero_grad()
    with Peak() as found:
        model(x).square().sum().backward()
    assert model.relaxation[0].sweeps == max_sweeps
    return found.peak


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator",
    [fc.CenteredEP(), fc.OneSidedEP(beta=0.01), fc.TangentEP(), fc.CenteredEP(subtract=True), fc.Implicit()],
    ids=lambda e: type(e).__name__,
)
def test_memory_does_not_grow_with_the_sweeps(estimator: fc.Estimator) -> None:
    assert peak(estimator, 60) == pytest.approx(peak(estimator, 5), rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
def test_unrolling_grows() -> None:
    assert peak(fc.Unrolled(), 60) > 5 * peak(fc.Unrolled(), 5)


@pytest.mark.filterwarnings("ignore::ffebm_compiler.errors.ConvergenceWarning")
def test_nothing_is_kept_from_step_to_step() -> None:
    torch.manual_seed(0)
    model = fc.convert(
        nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(60, 60), nn.Tanh()))), block_size=2
    )
    x = torch.randn(64, 60)
    after: list[int] = []
    with Peak() as found:
        for _ in range(6):
            model(x).square().sum().backward()
            model.zero_grad()
            torch.ones(1)
            after.append(sum(size for _, size in found.alive.values()))
    assert after[-1] <= after[1]
