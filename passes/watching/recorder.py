"""What a conversion reads of a model, attribute by attribute: what changes of it later, the program does not see.

Reads are noted while forward is traced and while rules read layers, of the model's own modules and of plain objects
that they hold (a configuration), by the thread that converts. What forward writes as it runs is no constant of the
conversion.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from ...ir import Program
from ..torch_private import BATCH_NORMS, HOOKS, REGISTRIES
from ..tracing.patching import replaced, this_thread
from ..tracing.state import TRACERS_OWN
from ..users_code import is_models
from .attribute_tokens import ATOMS, MISSING, raw_attribute, token_at
from .names_in_code import Named, named_by, named_of_class, names_of
from .paths import values_within
from .tensors import TensorValue, Unregistered, read_live, stand_ins

CALLER = "torch.nn.modules.module"
"""Who reads the forward of a module that is called, and looks modules up by their paths."""

MODE = "training"
"""What says whether a module is in training mode: each may be in one of its own, as of a frozen backbone."""

_COMMON = (frozenset(dir(nn.Module())) | {"parametrizations"}) - {"forward"}
_CHILDREN = frozenset({"_modules", "children", "named_children", "modules", "named_modules"})
_UNHEARD = (_COMMON - _CHILDREN - {MODE}) | frozenset(dir(object))
_NOT_FOLLOWED = (*ATOMS, Tensor, nn.Module, np.ndarray, list, tuple, dict, set, frozenset, MethodType)


@dataclass(frozen=True)
class Watched:
    """What was read of one module, or of an object that a module holds.

    Attributes:
        path: in the network.
        kind: its class; None where any will do.
        values: tokens (:mod:`.attribute_tokens`) by attribute.
        hooks: how many hooks it had, where a hook that is registered later would not run; None where it would.
        children: by name the path of the module that it was; under the first of its names.
        names: of all its children, where forward goes through them.
        tensor: of a tensor that is not registered: the path of that which the program reads instead, or its values.
    """

    path: str
    kind: type[Any] | None
    values: Mapping[str, Any] = field(default_factory=dict)
    hooks: int | None = None
    children: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    tensor: str | TensorValue | None = None


@dataclass
class _Noted:
    """What was read of one object so far.

    Attributes:
        modes: of a module whose forward asked for it, its mode, by the mode that was traced.
    """

    path: str
    owner: Any
    values: dict[str, Any] = field(default_factory=dict)
    children: dict[str, nn.Module] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    iterated: bool = False
    modes: dict[bool, bool] = field(default_factory=dict)

    def unwritten(self) -> dict[str, Any]:
        """What forward did not change as it ran."""
        return {n: v for n, v in self.values.items() if n not in self.written and token_at(self.owner, n) == v}


def layers_called(*graphs: fx.Graph) -> frozenset[str]:
    """The paths of the layers that graphs call as a whole."""
    return frozenset(str(n.target) for graph in graphs for n in graph.nodes if n.op == "call_module")


class Reads:
    """The reads of one conversion.

    ``with reads.of_forward():`` notes what the user's forward reads, ``with reads.of_rules():`` what rules read.

    Attributes:
        forward, rules: what was noted of each object, by its identity.
        named: what code reads by names that stand in it, by the way there.
        called: by mode, the layers that forward calls as a whole.
        tensors: those, and generators, that are not registered, by the way there.
        training: the mode that is being traced.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.forward: dict[int, _Noted] = {}
        self.rules: dict[int, _Noted] = {}
        self.named: dict[str, _Noted] = {}
        self.called: dict[bool, frozenset[str]] = {}
        self.tensors: dict[str, Unregistered] = {}
        self.training = network.training
        self._paths = {id(m): path for path, m in reversed(list(network.named_modules(remove_duplicate=False)))}

    @contextlib.contextmanager
    def of_forward(self, training: bool) -> Iterator[None]:
        self.training = training
        listener = _Listener(self, self.forward, is_models, names=self.named)
        with _listening(listener):
            listener.read(self.network, "forward", CALLER)
            yield
        for noted in (*self.forward.values(), *self.named.values()):  # what forward has written by now
            noted.values = noted.unwritten()

    @contextlib.contextmanager
    def of_rules(self) -> Iterator[None]:
        with _listening(_Listener(self, self.rules, lambda reader: reader != CALLER)):
            yield

    def path_of(self, owner: Any) -> str | None:
        return self._paths.get(id(owner))

    def adopt(self, value: Any, path: str) -> None:
        """Follows the reads of an object that a module holds."""
        self._paths.setdefault(id(value), path)

    def watched(self, training: bool, program: Program, is_alike: bool = False) -> tuple[Watched, ...]:
        """What the program of a mode depends on.

        Args:
            training: the mode.
            program: it calls layers as forward does, which show what changes, and reads tensors when it runs.
            is_alike: whether it is the program of the other mode, too: whoever asked for a mode went the same way.
        """
        called = self.called[training]
        graphs = [block.graph for block in program.digital_blocks]
        weights = [w for block in program.energy_blocks for w in block.weights]
        tensors = {way: t for way, t in self.tensors.items() if not _is_below(way, called)}
        live = layers_called(*graphs)
        return (
            *self._traced(training, called, is_alike),
            *(
                Watched(way, None, tensor=path or value)
                for way, path, value in stand_ins(self.network, tensors, read_live(self.network, graphs, weights))
            ),
            *(self._layer(path, path in live, training) for path in sorted(called)),
        )

    def _traced(self, training: bool, called: frozenset[str], is_alike: bool) -> Iterator[Watched]:
        """Of the modules and objects whose code was traced."""
        for noted in (*self.forward.values(), *self.named.values()):
            owner, is_layer = noted.owner, noted.path in called
            if _is_below(noted.path, called) or (is_layer and "forward" in noted.values):
                continue  # it was read in a trace that found that the layer has to be called as a whole
            mode = None if is_layer or is_alike else noted.modes.get(training)
            yield Watched(
                noted.path,
                None if is_layer else type(owner),
                dict(noted.values) if mode is None else {**noted.values, MODE: mode},
                _hooks(owner) if isinstance(owner, nn.Module) and "forward" in noted.values else None,
                {n: p for n, m in noted.children.items() if (p := self.path_of(m)) is not None},
                tuple(owner._modules) if noted.iterated else None,
            )

    def _layer(self, path: str, live: bool, training: bool) -> Watched:
        """Of a layer that is called as a whole: by a digital part as it then is, or read into a block."""
        layer = self.network.get_submodule(path)
        if live:
            inplace = vars(layer).get("inplace")
            return Watched(path, None, {"inplace": inplace} if isinstance(inplace, bool) else {})
        read = self.rules[id(layer)].values if id(layer) in self.rules else {}
        values = {n: v for n, v in read.items() if n != "inplace"}  # within a block nothing is in place
        if isinstance(layer, BATCH_NORMS) and not training:  # while training it is held in either
            values[MODE] = False
        return Watched(path, type(layer), {**values, "forward": token_at(layer, "forward")}, _hooks(layer))


def _is_below(path: str, called: frozenset[str]) -> bool:
    """Whether a way goes through a layer that is called as a whole."""
    parts = path.split(".")
    return not called.isdisjoint(".".join(parts[:i]) for i in range(1, len(parts)))


def _hooks(module: nn.Module) -> int:
    return sum(len(vars(module)[name]) for name in HOOKS)


# --- listening ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listener:
    """Notes the reads of one thread.

    Attributes:
        into: what was noted so far, by the identity of the owner.
        hears: whether code of a module of that name is listened to.
        is_mine: whether it is the thread that converts that reads.
        ears: puts the classes back that are followed.
        names: by the way there, what code reads by itself (:mod:`.names_in_code`); None to leave that out.
    """

    reads: Reads
    into: dict[int, _Noted]
    hears: Callable[[str], bool]
    is_mine: Callable[[], bool] = field(default_factory=this_thread)
    ears: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    followed: set[type[Any]] = field(default_factory=set)
    names: dict[str, _Noted] | None = None
    scanned: dict[FunctionType, tuple[Named, ...]] = field(default_factory=dict)

    def follow(self, kind: type[Any]) -> bool:
        """Puts an ear on the attributes of a class; False where Python allows none."""
        if not self.followed.isdisjoint(kind.__mro__):
            return True
        read: Any = kind.__getattribute__
        write: Any = kind.__setattr__

        def read_heard(owner: Any, name: str) -> Any:
            if name not in _UNHEARD and self.is_mine() and not self.knows(owner, name):
                self.read(owner, name, sys._getframe(1).f_globals.get("__name__", ""))
            return read(owner, name)

        def write_heard(owner: Any, name: str, value: Any) -> None:
            heard = self.is_mine() and self.hears(sys._getframe(1).f_globals.get("__name__", ""))
            if heard and (noted := self.noted(owner)) is not None:
                noted.written.add(name)
            write(owner, name, value)

        try:
            self.ears.enter_context(replaced(kind, "__getattribute__", read_heard))
            self.ears.enter_context(replaced(kind, "__setattr__", write_heard))
        except (TypeError, AttributeError):  # a class of C, or one that forbids it
            return False
        self.followed.add(kind)
        return True

    def knows(self, owner: Any, name: str) -> bool:
        noted = self.into.get(id(owner))
        return noted is not None and (name in noted.values or name in noted.children)

    def noted(self, owner: Any) -> _Noted | None:
        if id(owner) not in self.into:
            path = self.reads.path_of(owner)
            if path is None:
                return None
            self.into[id(owner)] = _Noted(path, owner)
        return self.into[id(owner)]

    def read(self, owner: Any, name: str, reader: str) -> None:
        if not (self.hears(reader) or (name == "forward" and reader == CALLER)) or (noted := self.noted(owner)) is None:
            return
        if name == MODE:
            noted.modes[self.reads.training] = owner.training
        elif name in _CHILDREN:
            noted.iterated = noted.iterated or isinstance(owner, nn.Module)
        elif _is_own(owner, name) and not self.knows(owner, name):
            self._note(noted, name, raw_attribute(owner, name))

    def _note(self, noted: _Noted, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            noted.children[name] = value
            return
        noted.values[name] = MISSING  # to find the value may read it
        noted.values[name] = token_at(noted.owner, name)
        way = f"{noted.path}.{name}".lstrip(".")
        if isinstance(value, property):
            self._scan(noted, value.fget, f"{noted.path}.__class__.{name}.fget".lstrip("."))
        elif isinstance(value, (staticmethod, classmethod)):
            self._scan(noted, value.__func__, way)
        elif not any(name in vars(noted.owner).get(r, ()) for r in REGISTRIES if hasattr(noted.owner, "__dict__")):
            for inner_way, inner in values_within(value, way):
                self._into(noted, inner, inner_way)

    def _into(self, noted: _Noted | None, value: Any, way: str) -> None:
        """Follows an object, wherever it was found; scans a function."""
        if isinstance(value, FunctionType) and noted is not None:
            self._scan(noted, value, way)
        elif isinstance(value, Unregistered):
            self.reads.tensors.setdefault(way, value)
        elif not isinstance(value, _NOT_FOLLOWED) and self.follow(type(value)):
            self.reads.adopt(value, way)

    def _scan(self, noted: _Noted, function: Any, way: str) -> None:
        """Notes what the code of a function reads by itself, and of the class of its owner."""
        if self.names is None or not isinstance(function, FunctionType):
            return
        if function not in self.scanned:
            self.scanned[function] = named_by(function)
        for inner_way, owner, names in self.scanned[function]:
            self._name(f"{way}{inner_way}", owner, names)
        names, _ = names_of(inspect.unwrap(function).__code__)
        is_of_class = isinstance(raw_attribute(noted.owner, function.__name__), classmethod)
        if is_of_class or names & {"type", "__class__", "super", "cls"}:
            for inner_way, owner, read in named_of_class(type(noted.owner), ".__class__", names):
                self._name(f"{noted.path}{inner_way}".lstrip("."), owner, read)

    def _name(self, way: str, owner: Any, names: frozenset[str]) -> None:
        if names and self.names is not None:
            noted = self.names.setdefault(way, _Noted(way, owner))
            noted.values.update({n: token_at(owner, n) for n in names if n not in noted.values})
        elif not names and type(owner) is not dict and not isinstance(owner, ModuleType):
            self._into(None, owner, way)


def _is_own(owner: Any, name: str) -> bool:
    """Whether an attribute is of the user's: not one that every module has, nor one that a tracer hung there."""
    return not (name.startswith(("__", *TRACERS_OWN)) or (isinstance(owner, nn.Module) and name in _COMMON))


@contextlib.contextmanager
def _listening(listener: _Listener) -> Iterator[None]:
    """Has this thread's reads and writes noted; a conversion holds the lock that makes it the only one."""
    with listener.ears:
        listener.follow(nn.Module)
        yield
