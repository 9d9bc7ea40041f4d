"""The forms that models return their values in."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    count: int = 2


class Named(NamedTuple):
    logits: Tensor
    hidden: Tensor


class Mapped(OrderedDict):  # type: ignore[type-arg]
    """A dict whose values are attributes too, as those of Hugging Face's models are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


Pair = namedtuple("Pair", ["first", "second"])

RESULTS: tuple[Callable[[Tensor, Tensor], Any], ...] = (
    lambda y, h: y,
    lambda y, h: y,
    lambda y, h: (y, h),
    lambda y, h: [y, {"h": h}],
    lambda y, h: {"y": y, "h": h, "name": "net"},
    lambda y, h: Output(y, h),
    lambda y, h: Output(y),
    lambda y, h: Frozen(y),
    lambda y, h: Named(y, h),
    lambda y, h: Pair(h, (y, None)),
    lambda y, h: Mapped(y=y, h=h),
    lambda y, h: (y, y.size(), 3),
)
