"""Random numbers that a forward draws while it is traced: they would be the same at every call, so they are refused.

What PyTorch draws is seen before it is drawn. Generators of Python's and numpy's are compared before and after; where
one has moved, the model is traced twice more line by line, to say where, and whether it was the model at all rather
than another thread. The generators are put back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ...errors import Problem
from ...torch_private import TorchDispatchMode
from ..refusals import LosesMeaning, kept_whole
from ..torch_private import schema_of
from ..users_code import decided_by, module_of, place_of, places_from, running_module, spaces_of, users_frame
from .state import GENERATORS, Holder, Owned
from .state_writes import watched

T = TypeVar("T")


class NoDraws(TorchDispatchMode):
    """Refuses what PyTorch draws in this thread, other than for a traced value.

    What fills a tensor is not drawn, and refused by :meth:`check` afterwards, if nothing else was wrong with that
    tensor.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self._network = network
        self._filled: LosesMeaning | None = None

    def check(self) -> None:
        """Raises LosesMeaning where a tensor was filled."""
        if self._filled is not None:
            raise self._filled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            what = "the forward draws random numbers of a fixed shape, which would be the same at every call"
            frame = users_frame()
            path, options = running_module(frame, self._network), decided_by(places_from(frame))
            refusal = _refusal(place_of(frame), what, path, options)
            if not schema_of(func).is_mutable:
                raise refusal
            self._filled = self._filled or refusal
            return args[0]
        return func(*args, **(kwargs or {}))


def without_draws(trace: Callable[[], T], network: nn.Module) -> T:
    """What ``trace`` returns, if the forward draws nothing by the way.

    Args:
        trace: traces the network; may be called three times.
        network: whose files' generators are watched too; those that modules hold are state like any other.

    Raises:
        LosesMeaning: it draws; says from which generator, and where.
    """
    generators = [*_generators(network)]
    with _put_back_on_failure(generators):
        traced = trace()
        if not any(g.changes() for g in generators):
            return traced
        theirs = {str(space.get("__name__")).split(".", 1)[0] for space in spaces_of(network)}

        def is_theirs(frame: FrameType) -> bool:
            return module_of(frame).split(".", 1)[0] in theirs

        draws: set[tuple[str, str, str, str]] | None = None
        for _ in range(2):  # what another thread draws meanwhile stands at no line twice
            now = [Holder.of(g.value, *g.owners) for g in generators]
            with watched(now, network, is_theirs) as writes:
                traced = trace()
            lines = {(w.place, o.name, next(iter(w.stack), ""), w.options) for w in writes for o in w.owned}
            draws = lines if draws is None else lines & draws
            if not draws:
                return traced
        assert draws
        where, generator, path, options = min(draws)
        what = f"the forward draws from {generator} what a graph would hold fixed, the same at every call"
        raise _refusal(where, what, path, options)


def _refusal(where: str, what: str, path: str, options: str) -> LosesMeaning:
    remedy = f"{options} Draw them like a value, as in torch.randn_like(x). {kept_whole(path)}".strip()
    return LosesMeaning(Problem(where, what, remedy), path)


@contextmanager
def _put_back_on_failure(generators: list[Holder]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for generator in generators:
            generator.restore()
        raise


def _generators(network: nn.Module) -> Iterator[Holder]:
    """Python's and numpy's own generators, and those in the files of the forwards."""
    ways: Any = (random.getstate, np.random.get_state)  # methods of the generator that each module has
    named = dict(zip(("random", "numpy.random"), (method.__self__ for method in ways), strict=True))
    for space in spaces_of(network):
        named |= {f"{space.get('__name__')}.{name}": value for name, value in space.items()}
    met: set[int] = set()
    for name, value in named.items():
        if isinstance(value, GENERATORS) and not isinstance(value, torch.Generator) and id(value) not in met:
            met.add(id(value))
            yield Holder.of(value, Owned(None, name))
