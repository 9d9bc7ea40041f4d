"""The noise of one phase: drawn at its first use, and held while the block settles.

A phase lasts nanoseconds to microseconds; the 1/f noise of a memristive device has most of its power below that, so within
a phase it stands still, and from phase to phase it changes in part. With the correlation rho between the phases of one sample,

    xi_phase = sqrt(rho) xi_sample + sqrt(1 - rho) xi_own,     xi ~ N(0, 1).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Sample:
    """What the phases of one presentation have in common.

    Attributes:
        generator: of the read noise; on the CPU.
        correlation: rho.
        drawn: the common part, by source of noise.
    """

    generator: torch.Generator
    correlation: float = 0.0
    drawn: dict[Hashable, Tensor] = field(default_factory=dict)

    def phase(self) -> Reading:
        """A new phase of this presentation."""
        return Reading(self)


@dataclass
class Reading:
    """The noise of one phase of a presentation."""

    sample: Sample
    drawn: dict[Hashable, Tensor] = field(default_factory=dict)

    def noise(self, source: Hashable, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of ``like``, the same at every call for one source."""
        if source not in self.drawn:
            self.drawn[source] = self._draw(source, like)
        return self.drawn[source]

    def _draw(self, source: Hashable, like: Tensor) -> Tensor:
        rho = self.sample.correlation
        if rho == 0:
            return self._normal(like)
        if source not in self.sample.drawn:
            self.sample.drawn[source] = self._normal(like)
        common = self.sample.drawn[source]
        return common if rho == 1 else rho**0.5 * common + (1 - rho) ** 0.5 * self._normal(like)

    def _normal(self, like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=self.sample.generator, dtype=torch.float32)
        return drawn.to(like)
