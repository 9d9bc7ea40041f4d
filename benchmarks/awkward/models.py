"""A random model of awkward parts: nested, shared, in a Sequential or called by hand, with one or several inputs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .parts import PARTS, WIDTH, Part
from .results import RESULTS


class Scaled(nn.Module):
    """A part behind a layer, one module deeper."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.before, self.part = nn.Linear(WIDTH, WIDTH), part

    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.part(torch.relu(self.before(x)), scale)


class Whole(nn.Module):
    """Parts in order, some of them called twice; the result in one of many forms."""

    def __init__(self, parts: list[nn.Module], order: list[int], result: int):
        super().__init__()
        self.parts, self.order = nn.ModuleList(parts), order
        self.head, self.result = nn.Linear(WIDTH, 3), result

    def forward(self, x: Tensor, flag: bool = False) -> Any:
        return self.through(x, x[:, :1] * 0 + 1.25, flag)

    def through(self, x: Tensor, scale: Tensor, flag: bool) -> Any:
        for i in self.order:
            x = self.parts[i](x, scale)
        if flag:
            x = x * 2
        return RESULTS[self.result](self.head(x), x)


class Several(Whole):
    """The same with two inputs."""

    def forward(self, x: Tensor, scale: Tensor, flag: bool = False) -> Any:  # type: ignore[override]
        return self.through(x, scale, flag)


class Alone(nn.Module):
    """A part behind a model of one input."""

    def __init__(self, part: Part):
        super().__init__()
        self.inner = part

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, torch.ones_like(x))


@dataclass(frozen=True)
class Awkward:
    """A drawn model, made anew by each :meth:`build`.

    Attributes:
        seed: of everything.
        kinds: the parts, by name, in the order of their calls.
        size: the block size to convert with.
        training: the mode that it is converted in.
        given: whether example inputs are given.
        copied: whether the conversion copies it.
    """

    seed: int
    kinds: tuple[str, ...]
    size: int
    training: bool
    given: bool
    copied: bool

    def build(self) -> nn.Module:
        draw, made = random.Random(self.seed), {k.__name__: k for k in PARTS}
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            parts = [made[k]() for k in self.kinds]
            if len(parts) == 1 and draw.random() < 0.4:
                return (parts[0] if draw.random() < 0.5 else Alone(parts[0])).train(self.training)
            nested: list[nn.Module] = [Scaled(p) if draw.random() < 0.3 else p for p in parts]
            order = [*range(len(nested)), *([0] if draw.random() < 0.2 else [])]
            result, kind = draw.randrange(len(RESULTS)), Several if draw.random() < 0.5 else Whole
            return kind(nested, order, result).train(self.training)

    def calls(self) -> tuple[tuple[bool, int], ...]:
        """The calls that are compared: in training mode or not, and of how many samples; the conversion knows
        of four.
        """
        own = self.training
        return ((own, 4), (own, 4), (not own, 4), (own, 4), (True, 4), (own, 3), (False, 1))

    def inputs(self, net: nn.Module, call: int, batch: int = 4) -> tuple[Tensor, ...]:
        """The arguments of one of the calls."""
        generator = torch.Generator().manual_seed(1000 * self.seed + call)
        x, scale = torch.randn(batch, WIDTH, generator=generator), 1 + torch.rand(batch, 1, generator=generator)
        return (x, scale) if isinstance(net, (Part, Several)) else (x,)


def drawn(seed: int) -> Awkward:
    """The model of a seed: mostly one awkward part, with up to two more beside it."""
    draw = random.Random(seed + 10**6)
    kinds = draw.sample(PARTS, draw.choice((1, 1, 2, 3)))
    return Awkward(
        seed,
        tuple(k.__name__ for k in kinds),
        draw.choice((1, 1, 2, 3)),
        draw.random() < 0.5,
        draw.random() < 0.5,
        draw.random() < 0.8,
    )
