"""A model on a chip whose errors are known: the chip multiplies the output of the feedforward model by a factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.hardware import Hardware
from ffebm_compiler.study import Samples


def network() -> nn.Module:
    """Linear, so that a factor on its output is a factor on its gradient."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 4, dtype=torch.float64))


class FakeChip(nn.Module):
    """Output times ``1 + read_noise + chip / 100``; fails where ``adc_bits`` is 13."""

    def __init__(self, inner: nn.Module, hardware: Hardware, seed: int):
        super().__init__()
        self.inner, self.hardware, self.seed = inner, hardware, seed
        self.calibrated: list[int] = []

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.named_parameters(*args, **kwargs)

    def calibrate(self, x: Tensor) -> None:
        self.calibrated.append(len(x))

    def forward(self, x: Tensor) -> Tensor:
        if self.hardware.adc_bits == 13:
            raise RuntimeError("a converter of 13 bits")
        return self.inner(x) * (1 + self.hardware.read_noise + self.seed / 100)

    @property
    def relaxation(self) -> tuple[Any, ...]:
        return (SimpleNamespace(sweeps=3 + self.seed, residual=1e-3 * (1 + self.seed), converged=self.seed == 0),)

    def cost(self, x: Tensor) -> Any:
        total = SimpleNamespace(energy=1e-9 * len(x), latency=2e-6 * len(x))
        return SimpleNamespace(inference=total, training=total)


@dataclass
class FakeSubject:
    """Counts how often it is converted."""

    targets: Tensor | None = None
    flip: bool = False
    conversions: int = 0

    def convert(self, conversion: Mapping[str, Any]) -> fc.FFEBM:
        self.conversions += 1
        model = fc.convert(network(), block_size=1, **conversion)
        sign = -1.0 if self.flip else 1.0

        def lower(backend: str, *, hardware: Hardware, chip_seed: int, noise_seed: int) -> nn.Module:
            assert backend == "analog-emu"
            assert noise_seed == chip_seed
            inner = model.to_feedforward()
            with torch.no_grad():
                inner[0].weight.mul_(sign)
                inner[0].bias.mul_(sign)
            return FakeChip(inner, hardware, chip_seed)

        model.__dict__["lower"] = lower
        return model

    def samples(self, needed: int) -> Samples:
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
        return Samples((x[:needed],), None if self.targets is None else self.targets[:needed])
