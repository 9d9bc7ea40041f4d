"""Hooks on every module of the process: ``torch.nn.modules.module.register_module_forward_hook`` and its like.

A model's own forward runs them at each of its layers, the program at those that it calls. Most only look (profilers, counters) and change nothing. So
a program is held against its model anew when there are others, and refused where they make a difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.nn.modules import module as registries

from ..errors import Problem

_NAMES = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_pre_hooks", "_global_backward_hooks")
REMEDY = "Remove it (the handle's remove()), or register it on the layers of the original before converting."


@dataclass(frozen=True)
class GlobalHooks:
    """Those of now, by the numbers of their handles."""

    numbers: tuple[int, ...]


def global_hooks() -> tuple[GlobalHooks, ...]:
    """Those of now but for torch's own, which look; empty where there are none."""
    numbers = tuple(number for _, number, _ in _registered())
    return (GlobalHooks(numbers),) if numbers else ()


def problems() -> Iterator[Problem]:
    """What to say of those that make a difference."""
    for kind, _, hook in _registered():
        name = getattr(hook, "__qualname__", type(hook).__qualname__)
        what = f"is a {kind} of every module and makes a difference to the model, in which the program does not run it"
        yield Problem(f"hook {name}", what, REMEDY)


def _registered() -> Iterator[tuple[str, int, Any]]:
    for name in _NAMES:
        for number, hook in [*getattr(registries, name).items()]:
            if not (getattr(hook, "__module__", None) or "").startswith("torch."):
                yield name.removeprefix("_global_").removesuffix("s").replace("_", " "), number, hook
