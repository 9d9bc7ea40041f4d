"""What the check of a mode costs, in forward and backward passes of the model on the same two samples.

  python benchmarks/check_cost.py

``first`` includes what is derived at a first use of the code; ``again`` is the check alone.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.model.first_use import FirstUse
from ffebm_compiler.model.verification import verify_call

ALLOWED, ROUNDS = 3.0, 15


def vgg() -> tuple[nn.Module, Tensor]:
    widths = ((3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128))
    convolutions = [layer for i, o in widths for layer in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)), torch.randn(
        2, 3, 96, 96
    )


def wide() -> tuple[nn.Module, Tensor]:
    layers = [layer for _ in range(4) for layer in (nn.Linear(2048, 2048), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(2048, 10)), torch.randn(2, 2048)


class Layer(nn.Module):
    """A transformer's, before whose halves a norm stands."""

    def __init__(self, width: int = 256):
        super().__init__()
        self.attend, self.first, self.second = (
            nn.MultiheadAttention(width, 4, batch_first=True),
            nn.LayerNorm(width),
            nn.LayerNorm(width),
        )
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        x = x + self.attend(h, h, h, need_weights=False)[0]
        return x + self.narrow(nn.functional.gelu(self.wide(self.second(x))))


def transformer() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*[Layer() for _ in range(4)]), torch.randn(2, 128, 256)


def main() -> int:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    worst = 0.0
    for make in (vgg, wide, transformer):
        for training in (True, False):
            net, x = make()
            net.train(training)
            model = fc.convert(net, 2, verify=False).train(training)
            first = _time(lambda: verify_call(runner_of(model), ((x,), {}), will_relax=True)) / _time(
                lambda: _pass(net, x)
            )
            ratios = [_check(model, x) / _time(lambda: _pass(net, x)) for _ in range(ROUNDS)]
            worst = max(worst, median(ratios))
            mode = "training" if training else "evaluation"
            print(f"{make.__name__:12s} {mode:10s} first {first:5.1f}, again {median(ratios):4.2f} passes")
    verdict = "met" if worst <= ALLOWED else "MISSED"
    print(f"{verdict} the check of a mode, in forward and backward passes: {worst:.2f}, at most {ALLOWED:g}")
    return int(worst > ALLOWED)


def _check(model: fc.FFEBM, x: Tensor) -> float:
    """A whole check, that of its blocks included, on code that is known."""
    runner_of(model).checks = FirstUse()
    return _time(lambda: verify_call(runner_of(model), ((x,), {}), will_relax=True))


def _pass(net: nn.Module, x: Tensor) -> None:
    given = x.clone().requires_grad_()
    leaves = [given, *net.parameters()]
    torch.autograd.grad(net(given).square().sum(), leaves)


def _time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
