"""Random numbers that a forward draws while it is traced: they would be the same at every call, so they are refused.

Two kinds are found. What PyTorch draws is seen before it is drawn. Generators of Python's and numpy's are compared before and
after; where one has moved, the model is traced twice more line by line, to say where, and whether it was the model at all
rather than another thread. The generators are put back.
"""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import Problem
from .deciding_options import Place, decided_by, frames_from
from .loses_meaning import LosesMeaning, kept_whole
from .running_modules import path_around
from .users_code import place_of, spaces_of, users_frame

T = TypeVar("T")


class NoDraws(TorchDispatchMode):
    """Refuses what PyTorch draws in this thread, other than for a traced value.

    What fills a tensor is not drawn, and refused by :meth:`check` afterwards, if nothing else was wrong with that tensor.
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
            refusal = _refusal(place_of(frame), what, path_around(frame, self._network), decided_by(frames_from(frame)))
            if not func._schema.is_mutable:
                raise refusal
            self._filled = self._filled or refusal
            return args[0]
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Source:
    """A generator of random numbers other than PyTorch's own."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]

    def state(self) -> bytes:
        return pickle.dumps(self.read())


def without_draws(trace: Callable[[], T], network: nn.Module, held: bool = True) -> T:
    """What ``trace`` returns, if the forward draws nothing by the way.

    Args:
        trace: traces the network; may be called three times.
        network: whose generators are watched too, with those of the files that its forwards are written in.
        held: whether those that its modules hold are watched here; :mod:`.whole_calls` does it as for any other state.

    Raises:
        LosesMeaning: it draws; says from which generator, and where.
    """
    sources = list(_sources(network, held))
    with _put_back_on_failure(sources) as before:
        traced = trace()
        if [s.state() for s in sources] == before:
            return traced
        found: set[_Draw] | None = None
        for _ in range(2):  # what another thread draws meanwhile stands at no line twice
            with _line_by_line(sources, network) as draws:
                traced = trace()
            found = draws if found is None else found & draws
            if not found:
                return traced
        assert found
        where, generator, inside, options = min(found)
        what = f"the forward draws from {generator} what a graph would hold fixed, the same at every call"
        raise _refusal(where, what, inside, options)


def _refusal(where: str, what: str, path: str, options: str) -> LosesMeaning:
    remedy = f"{options} Draw them like a value, as in torch.randn_like(x). {kept_whole(path)}".strip()
    return LosesMeaning(Problem(where, what, remedy), path)


@contextmanager
def _put_back_on_failure(sources: list[_Source]) -> Iterator[list[bytes]]:
    before = [s.state() for s in sources]
    try:
        yield before
    except BaseException:
        for source, state in zip(sources, before, strict=True):
            if source.state() != state:
                source.write(pickle.loads(state))
        raise


# --- generators -------------------------------------------------------------------------------------------


def _sources(network: nn.Module, held: bool) -> Iterator[_Source]:
    """Python's and numpy's own generators, and those that modules hold, or the files of their forwards."""
    yield _Source("random", random.getstate, random.setstate)
    if (numpy := sys.modules.get("numpy.random")) is not None:
        yield _Source("numpy.random", lambda: numpy.get_state(legacy=False), numpy.set_state)
    modules = list(network.named_modules()) if held else []
    own = {f"{path}.{name}".lstrip("."): v for path, m in modules for name, v in vars(m).items()}
    named = {f"{space.get('__name__')}.{name}": v for space in spaces_of(network) for name, v in space.items()}
    met: set[int] = set()
    for name, value in {**named, **own}.items():
        if id(value) not in met and (source := _generator(name, value)) is not None:
            met.add(id(value))
            yield source


def _generator(name: str, value: Any) -> _Source | None:
    numpy = sys.modules.get("numpy.random")
    if isinstance(value, random.Random):
        return _Source(name, value.getstate, value.setstate)
    if numpy is not None and isinstance(value, numpy.RandomState):
        return _Source(name, lambda: value.get_state(legacy=False), value.set_state)
    if numpy is not None and isinstance(value, numpy.Generator):
        return _Source(name, lambda: value.bit_generator.state, lambda s: setattr(value.bit_generator, "state", s))
    return None


# --- where ------------------------------------------------------------------------------------------------

_Draw = tuple[str, str, str, str]
"""The line, the generator, the module in whose forward it is, and the options that decide it."""


@contextmanager
def _line_by_line(sources: list[_Source], network: nn.Module) -> Iterator[set[_Draw]]:
    """Notes after which lines of the forwards' packages a generator has moved."""
    found: set[_Draw] = set()
    theirs = {str(space.get("__name__")).split(".", 1)[0] for space in spaces_of(network)}
    at: tuple[str, str, list[Place]]
    last, at = [s.state() for s in sources], ("a line", "", [])

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal last, at
        if str(frame.f_globals.get("__name__")).split(".", 1)[0] not in theirs:
            return None
        now = [s.state() for s in sources]
        for source in (s for s, a, b in zip(sources, last, now, strict=True) if a != b):
            found.add((at[0], source.name, at[1], decided_by(at[2])))
        last, at = now, (place_of(frame), path_around(frame, network), [*frames_from(frame)])
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield found
    finally:
        sys.settrace(before)
