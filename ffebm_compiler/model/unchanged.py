"""Whether what was read of a model at conversion is still so: looked at once a call, by identity.

A program is made from a model's classes, attributes and hooks as they are at conversion. It reads tensors when it runs,
and calls digital layers as they then are, so these may change. Everything else that was read
(:class:`ffebm_compiler.passes.watching.Watched`) is looked at here. Where an object is another, :mod:`.changes`
compares values, and names what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from operator import is_
from typing import Any

from torch import nn

from ..passes.torch_private import HOOKS
from ..passes.watching.attribute_tokens import MISSING, TENSOR, attribute_spaces, is_atom, token_at
from ..passes.watching.paths import steps_of
from ..passes.watching.recorder import Watched
from ..passes.watching.tensors import TensorValue
from .changes import is_tensor_of

_SPECIAL = frozenset(
    ("__globals__", "__class__", "__closure__", "__defaults__", "__kwdefaults__", "__mro__", "__self__")
)
"""Steps that Python makes up: what is at their end is the same as long as what they start from."""


def _at(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except (LookupError, TypeError):
        return MISSING


@dataclass(frozen=True)
class Items:
    """Keys of mappings, and the very objects that these give.

    Attributes:
        holders: the mappings, of one class.
        names, values: the key in each, and the object.
    """

    holders: tuple[Mapping[str, Any], ...]
    names: tuple[str, ...]
    values: tuple[Any, ...]

    @staticmethod
    def of(cells: Iterable[tuple[Mapping[str, Any], str, Any]]) -> tuple[Items, ...]:
        """One for each class of mappings."""
        kinds: dict[type[Any], list[tuple[Mapping[str, Any], str, Any]]] = {}
        for cell in cells:
            kinds.setdefault(type(cell[0]), []).append(cell)
        return tuple(Items(*zip(*group, strict=True)) for group in kinds.values())

    def now(self) -> Iterator[Any]:
        get: Callable[..., Any] = type(self.holders[0]).get
        return map(get, self.holders, self.names, repeat(MISSING))


@dataclass(frozen=True)
class Seen:
    """A model as it was last found unchanged; loops over it are C's, so that a look costs some hundredths of a microsecond an item.

    Attributes:
        cells: what has to be the same object.
        owners, kinds: modules and other objects, and their classes.
        present: registries and the names of tensors that there have to be.
        registries, counts: those of layers and of hooks, and how many there have to be in each.
        copied: what may be changed in place, with its token.
        held: containers, keys in them, and what has to be there.
        tensors: those that are not registered, and what they have to be.
    """

    cells: tuple[Items, ...]
    owners: tuple[Any, ...]
    kinds: tuple[type[Any], ...]
    present: tuple[Items, ...]
    registries: tuple[Mapping[Any, Any], ...]
    counts: tuple[int, ...]
    copied: tuple[tuple[Any, str, Any], ...]
    held: tuple[tuple[Any, Any, Any], ...] = ()
    tensors: tuple[tuple[nn.Module, Any, str | TensorValue], ...] = ()

    def still(self) -> bool:
        """Whether nothing has changed since."""
        return (
            tuple(map(type, self.owners)) == self.kinds
            and tuple(map(len, self.registries)) == self.counts
            and all(all(map(is_, group.now(), group.values)) for group in self.cells)
            and not any(now is None or now is MISSING for group in self.present for now in group.now())
            and all(token_at(owner, name) == token for owner, name, token in self.copied)
            and all(_at(holder, key) is value for holder, key, value in self.held)
            and all(is_tensor_of(*each) for each in self.tensors)
        )


@dataclass
class _Look:
    """Collects a :class:`Seen`."""

    cells: dict[tuple[int, str], tuple[Mapping[str, Any], str, Any]] = field(default_factory=dict)
    owners: list[Any] = field(default_factory=list)
    present: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)
    registries: list[Mapping[Any, Any]] = field(default_factory=list)
    copied: list[tuple[Any, str, Any]] = field(default_factory=list)
    held: dict[tuple[int, Any], tuple[Any, Any, Any]] = field(default_factory=dict)
    tensors: list[tuple[nn.Module, Any, str | TensorValue]] = field(default_factory=list)

    def same(self, holder: Mapping[str, Any], name: str) -> None:
        self.cells[id(holder), name] = holder, name, holder.get(name, MISSING)

    def way(self, root: nn.Module, path: str) -> Any:
        """What is at the end of a way (:mod:`ffebm_compiler.passes.watching.paths`); every object on it has to be the same."""
        value: Any = root
        for name, key in steps_of(path):
            inner = getattr(value, name) if name else value[key]
            if name is None:
                self.held[id(value), key] = value, key, inner
            elif not isinstance(inner, nn.Module) and name not in _SPECIAL:
                for place in attribute_spaces(value):
                    self.same(place, name)
                    if name in place:
                        break
            value = inner
        return value

    def value(self, owner: Any, name: str, token: Any) -> None:
        holder = next((p for p in attribute_spaces(owner) if name in p), None)
        value = MISSING if holder is None else holder[name]
        if holder is None and token is MISSING and _looks_nowhere_else(owner):
            for place in attribute_spaces(owner):
                self.same(place, name)
        elif holder is None or not (is_atom(value) or token is TENSOR):
            self.copied.append((owner, name, token))
        elif token is TENSOR and value is not None:
            self.present.append((holder, name))
        else:
            for place in attribute_spaces(owner):  # up to there: a class may override what it inherits
                self.same(place, name)
                if place is holder:
                    break

    def seen(self) -> Seen:
        return Seen(
            Items.of(self.cells.values()),
            tuple(self.owners),
            tuple(map(type, self.owners)),
            Items.of((registry, name, None) for registry, name in self.present),
            tuple(self.registries),
            tuple(map(len, self.registries)),
            tuple(self.copied),
            tuple(self.held.values()),
            tuple(self.tensors),
        )


def _looks_nowhere_else(owner: Any) -> bool:
    """Whether an object makes up no attributes."""
    return getattr(type(owner), "__getattr__", nn.Module.__getattr__) is nn.Module.__getattr__


def seen(network: nn.Module, watched: Iterable[Watched], is_original: bool = False) -> Seen:
    """The model as it is, which has been found unchanged."""
    found = _Look()
    for entry in watched:
        for module, name in _steps(network, (entry.path, *entry.children.values(), *_children(entry))):
            found.same(vars(module)["_modules"], name)
        owner = found.way(network, entry.path)
        if entry.tensor is not None and not is_original:
            found.tensors.append((network, owner, entry.tensor))
        if entry.kind is not None:
            found.owners.append(owner)
        if entry.hooks is not None:
            found.registries += [vars(owner)[h] for h in HOOKS]
        if entry.names is not None:
            found.registries.append(vars(owner)["_modules"])
        for name, token in entry.values.items():
            found.value(owner, name, token)
    return found.seen()


def _children(entry: Watched) -> Iterator[str]:
    for name in (*entry.children, *(entry.names or ())):
        yield f"{entry.path}.{name}".lstrip(".")


def _steps(network: nn.Module, paths: Iterable[str]) -> Iterator[tuple[nn.Module, str]]:
    """The modules on the way to each path, and the name of the next."""
    for path in paths:
        module = network
        for name in filter(None, path.split(".")):
            child = vars(module)["_modules"].get(name)
            if child is None:
                break
            yield module, name
            module = child
