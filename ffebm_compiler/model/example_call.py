"""The example call that a file is written by, and the sizes that no file can ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..errors import Problem
from ..passes.calling import CallForm
from ..torch_private import tree_map_only
from .bound_model import BoundModel


def example_of(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example call as (args, kwargs), on the CPU: a tuple or list is the arguments, a dict the keywords,
    anything else one argument."""
    held = tree_map_only(Tensor, lambda t: t.detach().cpu(), given)
    if isinstance(held, Mapping):
        return (), dict(held)
    return (tuple(held), {}) if isinstance(held, (tuple, list)) else ((held,), {})


def size_problems(model: BoundModel) -> Iterator[Problem]:
    """What no file can ask: whether a size is one that the forward's choices hold for. Where these only raise, it goes on instead."""
    signatures = (mode.signature.bind for mode in model.compiled.modes.values())
    choices = dict.fromkeys(c for form in signatures if isinstance(form, CallForm) for c in form.choices)
    for choice in (c for c in choices if not c.only_raises):
        yield Problem(
            f"a choice by sizes at {choice.place}",
            f"was {choice.answer} when the model was traced ({choice.question}), and a file would go on for every batch as if it were",
            "Write the forward so that it does not ask for the size of the batch.",
        )
