"""Modules that are called as a whole, because tracing through them would lose something.

A forward that counts its calls, keeps a hidden state or fills a list does what no graph does. Called as a whole, its
module runs the user's own Python, which is right whatever it does:

    trace; has the model's state changed? -> trace again, watched: which line changed it, in whose forward?
    -> call that module as a whole, and trace again, until nothing changes

What the model's own forward writes has no caller that could call it so, and is refused by name. So is what a forward
that is traced reads of such state. Whatever happens, the model's state is afterwards what it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from ...errors import Problem, TraceError
from ...torch_private import outside_modes
from ..calling import form_of_anything, itself, parameters_of
from ..graph.effects import written_by
from ..graph.names import rename_apart
from ..refusals import LosesMeaning
from ..stages import WHOLE, Signature, Traced
from .state import Holder, Owned, State, holder_of
from .state_writes import Written, held_back, watched

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


def as_a_whole(network: nn.Module) -> Traced:
    """The graph ``network(*arguments)``, of one call, for ``digital=[""]``: nothing is traced, and any forward will do.

    Raises:
        TraceError: its forward takes any number of arguments, and a graph takes so many as it has.
    """
    signature = parameters_of(network.forward)
    parameters = signature.parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        what = f"its forward takes any number of arguments, {signature}: as a whole it can't be a graph"
        remedy = "Give it a forward whose arguments are named, or trace it."
        raise TraceError(Problem(f"model {type(network).__name__}", what, remedy))
    graph = fx.Graph()
    given = {p.name: graph.placeholder(p.name) for p in parameters}
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    args = tuple(node for name, node in given.items() if name not in named)
    graph.output(graph.call_module(WHOLE, args, {name: given[name] for name in named}))
    rename_apart(graph, network)
    inputs = tuple(node.name for node in given.values())
    called = Signature(inputs, form_of_anything(network.forward), itself)
    return Traced(network, graph, called, "nothing: it is called as a whole")


# --- until nothing is lost --------------------------------------------------------------------------------


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
            traced = _attempt(trace, network, [*opaque, *whole])
        if isinstance(traced, Traced):
            return replace(traced, whole=whole)
        path = traced.error.path
        if not path or path in whole:
            raise traced.error
        whole[path] = traced.reason
        hidden.update(dict.fromkeys(traced.state))


def _attempt(trace: Tracer, network: nn.Module, opaque: Sequence[str]) -> Traced | _Loss:
    state = State(network)
    failure: Exception | None = None
    try:
        traced = trace(network, opaque)
    except LosesMeaning as loss:
        lost = frozenset(o for owned in state.changes().values() for o in owned if o.is_within(loss.path))
        state.restore()
        return _Loss(loss, loss.problems[0].what, lost)
    except Exception as error:  # perhaps because of what an earlier call has left in the state
        failure = error
    _forget_aliases(network, state)
    changes = state.changes()
    if failure is None and not changes:
        return traced
    state.restore()
    if changes and (written := _first_write(trace, network, opaque, changes)) is not None:
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


def _first_write(trace: Tracer, network: nn.Module, opaque: Sequence[str], holders: Collection[int]) -> Written | None:
    """The first write of a trace into any of the holders, which change if it is repeated."""
    state = State(network)
    changing = [state.holders[h] for h in holders if h in state.holders]
    with watched(changing, network) as writes, contextlib.suppress(Exception):
        trace(network, opaque)
    state.restore()
    return writes[0] if writes else None


def _loss(written: Written, opaque: Sequence[str], network: nn.Module) -> _Loss:
    names = ", ".join(sorted({str(o) for o in written.owned}))
    inner = written.stack[0] if written.stack else ""
    of = f" of layer {inner}" if inner else ""
    problem = Problem(f"{names}{of}, at {written.place}", _WRITTEN, _remedy(written.owned, network))
    error = LosesMeaning(problem, holder_of(written.stack, written.owned, opaque))
    return _Loss(error, f"its forward writes {names} ({written.place})", written.owned)


def _remedy(owned: Collection[Owned], network: nn.Module) -> str:
    """What to do about it; a graph holds what is written into a buffer, not which tensor is one."""
    first = min(owned, key=str)
    is_buffer = first.path is not None and first.name in network.get_submodule(first.path)._buffers
    return _OF_BUFFERS.format(name=first.name) if is_buffer else _REMEDY


# --- where nothing can be called as a whole ---------------------------------------------------------------


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
    """The same around a forward that torch.export runs, which puts attributes back itself; registered tensors it keeps.

    Raises:
        LosesMeaning: an attribute has changed.
    """
    registered = {id(r) for m in network.modules() for r in (m._parameters, m._buffers)}
    with outside_modes():
        state = State(network)
    yield
    with outside_modes():
        changes = {holder: owned for holder, owned in state.changes().items() if holder not in registered}
    refuse_writes({o for owned in changes.values() for o in owned})


def refuse_writes(changed: Collection[Owned]) -> None:
    """Raises LosesMeaning where something has changed."""
    if changed:
        first = min(changed, key=str)
        of = f" of layer {first.path}" if first.path else ""
        raise LosesMeaning(Problem(f"{first}{of}", _WRITTEN, _REMEDY), first.path or "")


@contextlib.contextmanager
def arguments_unwritten(arguments: Sequence[Any], network: nn.Module) -> Iterator[None]:
    """Holds a forward to writing into no list or dict that it is given: the caller sees it, and no graph does it.

    Raises:
        LosesMeaning: one of them holds other things afterwards.
    """
    given = [Holder.of(c) for c in _containers(arguments)]
    yield
    for kind in (type(c.value).__name__ for c in given if c.is_refilled()):
        model = type(network).__name__
        what = f"the forward of {model} writes into a {kind} among its arguments, which is the caller's"
        remedy = 'Return what it computes instead; digital=[""] calls the whole model as it is.'
        raise LosesMeaning(Problem(f"model {model}", what, remedy))


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, dict, set)):
        yield value
    if isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _containers(each)
