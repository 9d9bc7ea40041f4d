"""The noise of one phase: drawn at its first use, and held while the block settles.

A phase lasts nanoseconds to microseconds; the 1/f noise of a memristive device has most of its power below that, so
within a phase it stands still, and from phase to phase it changes in part: xi_1, xi_2, ... ~ N(0, 1), of which any two
have the correlation rho. Given those of k phases, the next is normal with

    mean  rho (xi_1 + ... + xi_k) / (1 + (k - 1) rho),      variance  1 - k rho^2 / (1 + (k - 1) rho),

so each phase draws one number a value, and the first, which is all that inference has, no more than uncorrelated noise
would.
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
        past: by source of noise, in how many phases it was drawn, and the sum of what was.
    """

    generator: torch.Generator
    correlation: float = 0.0
    past: dict[Hashable, tuple[int, Tensor]] = field(default_factory=dict)

    def phase(self) -> Reading:
        """A new phase of this presentation."""
        return Reading(self)


@dataclass
class Reading:
    """The noise of one phase of a presentation."""

    sample: Sample
    drawn: dict[Hashable, Tensor] = field(default_factory=dict)

    def noise(self, source: Hashable, like: Tensor, white: bool = False) -> Tensor:
        """Standard normal numbers of the shape of ``like``, the same at every call for one source.

        Args:
            source: what makes the noise.
            like: of the shape, type and device that are wanted.
            white: whether the source has forgotten one phase in the next, as thermal noise has.
        """
        if source not in self.drawn:
            self.drawn[source] = self._draw(source, like, 0.0 if white else self.sample.correlation)
        return self.drawn[source]

    def _draw(self, source: Hashable, like: Tensor, rho: float) -> Tensor:
        if rho == 0:
            return self._normal(like)
        count, total = self.sample.past.get(source, (0, None))
        if total is None or rho == 1:
            drawn = self._normal(like) if total is None else total
            self.sample.past[source] = 1, drawn
            return drawn
        spread = 1 + (count - 1) * rho
        drawn = self._normal(like).mul_((1 - count * rho**2 / spread) ** 0.5).add_(total, alpha=rho / spread)
        self.sample.past[source] = count + 1, total + drawn
        return drawn

    def _normal(self, like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=self.sample.generator, dtype=torch.float32)
        return drawn.to(like)
