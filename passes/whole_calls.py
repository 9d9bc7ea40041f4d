"""Modules that are called as a whole, because tracing through them would lose something.

A forward that counts its calls, keeps a hidden state or fills a list does what no graph does. Called as a whole, its module runs the
user's own Python, which is right whatever it does:

    trace; has the model's state changed? -> trace again, watched: which line changed it, in whose forward?
    -> call that module as a whole, and trace again, until nothing changes

What the model's own forward writes has no caller that could call it so, and is refused by name. So is what a forward that is traced
reads of such state. Whatever happens, the model's state is afterwards what it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import fx, nn
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import Problem
from .loses_meaning import LosesMeaning
from .running_modules import caller_of, holds
from .stages import Traced
from .state import Owned, State
from .stopgap import held_back
from .writes import written_by
from .writing_lines import Written, watched

Tracer = Callable[[nn.Module, Sequence[str]], Traced]
"""``(network, paths of modules that are called as a whole) -> graph``."""

_WRITTEN = "is written by the forward, at every call: a graph would write it once"
_REMEDY = (
    "Write it in a submodule, which is then called as a whole, or give the state as an argument and return it; "
    'digital=[""] calls the whole model as it is, without a block.'
)
_OF_BUFFERS = (
    "Write into the buffer in place, self.{name}.copy_(...), or give example_inputs= to trace by torch.export."
)


@dataclass(frozen=True)
class _Loss:
    """What a trace has lost: in which module, and what is written there."""

    error: LosesMeaning
    reason: str
    state: frozenset[Owned] = frozenset()


def trace_what_is_kept(trace: Tracer, network: nn.Module, opaque: Sequence[str]) -> Traced:
    """A trace that loses nothing, with every module called as a whole that it takes for that.

    Raises:
        LosesMeaning: what would be lost stands in the model's own forward.
        Exception: whatever the tracer raises on a forward that writes nothing.
    """
    whole: dict[str, str] = {}
    hidden: dict[Owned, None] = {}
    while True:
        with held_back(hidden, network):
            found = _attempt(trace, network, [*opaque, *whole])
        if isinstance(found, Traced):
            return replace(found, whole=whole)
        path = found.error.path
        if not path or path in whole:
            raise found.error
        whole[path] = found.reason
        hidden.update(dict.fromkeys(found.state))


@contextlib.contextmanager
def nothing_written(network: nn.Module) -> Iterator[None]:
    """Holds a tracer that can't call modules as a whole to what changes no state, which is put back.

    Raises:
        LosesMeaning: something has changed.
    """
    state = State(network)
    try:
        yield
        refuse_writes({o for owned in state.changes().values() for o in owned})
    finally:
        state.restore()


@contextlib.contextmanager
def no_attribute_written(network: nn.Module) -> Iterator[None]:
    """The same around a forward that torch.export runs, which puts attributes back by itself; registered tensors it keeps.

    Raises:
        LosesMeaning: an attribute has changed.
    """
    registered = {id(r) for m in network.modules() for r in (m._parameters, m._buffers)}
    with _disable_current_modes():
        state = State(network)
    yield
    with _disable_current_modes():
        changes = {holder: owned for holder, owned in state.changes().items() if holder not in registered}
    refuse_writes({o for owned in changes.values() for o in owned})


def refuse_writes(changed: Collection[Owned]) -> None:
    """Raises LosesMeaning where something has changed."""
    if not changed:
        return
    first = min(changed, key=str)
    of = f" of layer {first.path}" if first.path else ""
    raise LosesMeaning(Problem(f"{first}{of}", _WRITTEN, _REMEDY), first.path or "")


def _attempt(trace: Tracer, network: nn.Module, opaque: Sequence[str]) -> Traced | _Loss:
    state = State(network)
    failure: Exception | None = None
    try:
        traced = trace(network, opaque)
    except LosesMeaning as loss:
        changed = {o for owned in state.changes().values() for o in owned if holds(loss.path, o)}
        state.restore()
        return _Loss(loss, loss.problems[0].what, frozenset(changed))
    except Exception as error:  # perhaps because of what an earlier call has left in the state
        failure = error
    _forget_aliases(network, state)
    changes = state.changes()
    if failure is None and not changes:
        return traced
    state.restore()
    if changes and (written := _watched(trace, network, opaque, changes)) is not None:
        return _loss(written, opaque, network)
    if failure is not None:
        raise failure
    return _loss(Written(frozenset(next(iter(changes.values()))), "a line that runs at times", ()), opaque, network)


def _forget_aliases(network: nn.Module, state: State) -> None:
    """``self.ema += x`` assigns the very buffer that it has written into, of which the graph knows."""
    for path, module in network.named_modules():
        for space in (module._buffers, module._parameters):
            for name, value in space.items():
                if isinstance(value, fx.Proxy) and _written_into(value.node, network) == f"{path}.{name}".lstrip("."):
                    space[name] = state.holders[id(space)].content[name]


def _written_into(node: fx.Node, network: nn.Module) -> object:
    """The path of the tensor that a chain of in-place calls returns."""
    while written := written_by(node, network):
        node = written[0]
    return node.target if node.op == "get_attr" else None


def _watched(trace: Tracer, network: nn.Module, opaque: Sequence[str], holders: Collection[int]) -> Written | None:
    """The first write of a trace into any of the holders, which change if it is repeated."""
    state = State(network)
    changing = [state.holders[h] for h in holders if h in state.holders]
    with watched(changing, network) as found, contextlib.suppress(Exception):
        trace(network, opaque)
    state.restore()
    return found[0] if found else None


def _loss(written: Written, opaque: Sequence[str], network: nn.Module) -> _Loss:
    path = caller_of(written.stack, written.owned, opaque)
    names = ", ".join(sorted({str(o) for o in written.owned}))
    inner = written.stack[0] if written.stack else ""
    of = f" of layer {inner}" if inner else ""
    problem = Problem(f"{names}{of}, at {written.place}", _WRITTEN, _remedy(written.owned, network))
    return _Loss(LosesMeaning(problem, path), f"its forward writes {names} ({written.place})", written.owned)


def _remedy(owned: Collection[Owned], network: nn.Module) -> str:
    """What to do about it; a graph holds what is written into a buffer, not which tensor is one."""
    first = min(owned, key=str)
    is_buffer = first.path is not None and first.name in network.get_submodule(first.path)._buffers
    return _OF_BUFFERS.format(name=first.name) if is_buffer else _REMEDY
