"""What was read at conversion and has changed since: noticed at the next call, and named.

A program is made from a model's classes, attributes and hooks as they are at conversion. It reads tensors when it runs, and calls digital
layers as they then are, so these may change. Everything else that was read (:class:`ffebm_compiler.passes.watching.Watched`) is looked
at once a call: by identity, and where an object is another, by value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from operator import is_
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import ChangedError, Problem
from ..passes.torch_private import HOOKS
from ..passes.watching.attribute_tokens import MISSING, TENSOR, Code, attribute_spaces, is_atom, token_at
from ..passes.watching.paths import reach, steps_of
from ..passes.watching.recorder import MODE, Watched
from ..passes.watching.tensors import TensorValue, Unregistered, is_same_tensor, value_of

AGAIN = "Undo it, or convert again: fc.convert(model.to_feedforward(), ...)."
BUFFER = "Undo it, or convert again: fc.convert(model.to_feedforward(), ...). What is to change while the model runs is a buffer or a digital layer."
OWN_MODE = (
    "Keep the layer out of blocks by digital=[{name!r}], which calls it as a whole in whatever mode it is, or set the mode in the "
    "model's own train(), before converting."
)
UNHOOK = "Remove it, or register it on the original before converting, or keep the layer out of blocks by digital=[{name!r}]."


_SPECIAL = frozenset(
    ("__globals__", "__class__", "__closure__", "__defaults__", "__kwdefaults__", "__mro__", "__self__")
)
"""Steps that Python makes up: what is at their end is the same as long as what they start from."""


def _at(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except (LookupError, TypeError):
        return MISSING


_MODES = {True: "training", False: "evaluation"}


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
            and all(_is_tensor_of(*each) for each in self.tensors)
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


# --- what has changed --------------------------------------------------------------------------------------


def require_unchanged(network: nn.Module, watched: Iterable[Watched]) -> None:
    """Compares a model with what was read of it at conversion.

    Raises:
        ChangedError: with everything that has changed.
    """
    problems = dict.fromkeys(p for entry in watched for p in changes(network, entry))
    if problems:
        raise ChangedError(problems)


def changes(network: nn.Module, entry: Watched) -> Iterator[Problem]:
    """What has changed of one entry."""
    try:
        owner = reach(network, entry.path)
    except AttributeError:
        yield Problem(f"layer {entry.path}", "was there at conversion and is gone", AGAIN)
        return
    if entry.kind is not None and not is_of(owner, entry.kind):
        before, now = _told_apart(entry.kind, type(owner))
        yield Problem(_place(entry), f"was a {before} at conversion and is a {now} now", AGAIN)
        return
    if entry.tensor is not None and not _is_tensor_of(network, owner, entry.tensor):
        yield tensor_problem(network, entry, owner)
    yield from _hooked(owner, entry)
    yield from _restructured(network, owner, entry)
    for name, token in entry.values.items():
        if (now := token_at(owner, name)) != token:
            yield _attribute_problem(network, entry, owner, name, token, now)


def _is_tensor_of(network: nn.Module, tensor: Any, wanted: str | TensorValue) -> bool:
    """Whether a tensor is what the program has in its place."""
    if isinstance(wanted, TensorValue):
        return value_of(tensor) == wanted
    return is_same_tensor(tensor, reach(network, wanted))


def tensor_problem(network: nn.Module, entry: Watched, now: Any) -> Problem:
    """A tensor that is not registered, and is no more what it was."""
    kind = "tensor" if isinstance(now, Tensor) else "generator of random numbers"
    what = (
        f"is another {kind} than at conversion"
        if isinstance(now, Unregistered)
        else f"was a tensor or a generator and is {now!r} now"
    )
    if isinstance(entry.tensor, TensorValue) and isinstance(now, Tensor):
        what = "has other values than at conversion, which the program holds"
    return Problem(f"attribute {entry.path} of {type(network).__name__}", what, BUFFER)


def is_of(owner: Any, kind: type[Any]) -> bool:
    """Whether an object is of a class; a parametrization makes a class of its own, which computes what its base does."""
    return type(owner) is kind or (parametrize.is_parametrized(owner) and kind in type(owner).__bases__)


def _told_apart(*kinds: type[Any]) -> list[str]:
    """The names of classes, with their modules where those are needed to tell them apart: adapters have the names of what they replace."""
    alike = len({k.__name__ for k in kinds}) < len(kinds)
    return [f"{k.__module__}.{k.__name__}" if alike else k.__name__ for k in kinds]


def _place(entry: Watched) -> str:
    return f"layer {entry.path}" if entry.path else "the model"


def _hooked(owner: Any, entry: Watched) -> Iterator[Problem]:
    registered = [n for n in HOOKS if entry.hooks is not None and vars(owner)[n]]
    if registered and sum(len(vars(owner)[n]) for n in registered) > (entry.hooks or 0):
        kind = registered[0].strip("_").removesuffix("s").replace("_", " ")
        what = f"has a {kind} since the conversion, which does not run: the program does not call it (pruning and the old weight_norm register hooks)"
        yield Problem(_place(entry), what, UNHOOK.format(name=entry.path))


def _restructured(network: nn.Module, owner: Any, entry: Watched) -> Iterator[Problem]:
    names = tuple(vars(owner)["_modules"]) if entry.names is not None else None
    if names != entry.names:
        yield Problem(
            _place(entry), f"had the layers {_listed(entry.names)} at conversion and has {_listed(names)} now", AGAIN
        )
    for name, path in entry.children.items():
        where = f"{entry.path}.{name}".lstrip(".")
        if where != path and vars(owner)["_modules"].get(name) is not _module_at(network, path):
            yield Problem(
                f"layer {where}", f"was the layer {path} at conversion, under another name, and is another now", AGAIN
            )


def _module_at(network: nn.Module, path: str) -> Any:
    try:
        return network.get_submodule(path)
    except AttributeError:
        return MISSING


def _listed(names: Iterable[str] | None) -> str:
    return ", ".join(names or ()) or "none"


def _attribute_problem(network: nn.Module, entry: Watched, owner: Any, name: str, token: Any, now: Any) -> Problem:
    if name == MODE and isinstance(owner, nn.Module):
        what = f"is in {_MODES[bool(now)]} mode, and the program was made for its {_MODES[bool(token)]} mode"
        return Problem(_place(entry), what, OWN_MODE.format(name=entry.path))
    where = f"attribute {name} of {type(network).__name__}" if not entry.path else f"layer {entry.path}"
    subject = "" if not entry.path else f"{name} "
    if type(owner) is dict or isinstance(owner, (type, ModuleType)):
        kind = "attribute {} of class {}" if isinstance(owner, type) else "global {} of {}"
        of = owner.get("__name__", "a file") if isinstance(owner, dict) else owner.__name__
        where, subject = kind.format(name, of), ""
    elif not isinstance(owner, nn.Module):
        where = f"attribute {entry.path}.{name} of {type(network).__name__}"
        subject = ""
    return Problem(where, f"{subject}was {_shown(token)} at conversion and is {_shown(now)} now", BUFFER)


def _shown(token: Any) -> str:
    """A token, as its user would write the value."""
    if token is TENSOR:
        return "a tensor"
    if token is MISSING:
        return "missing"
    if isinstance(token, tuple) and token and isinstance(token[0], type):
        return _shown_contents(*token)
    if isinstance(token, Code):
        return token.name
    return getattr(token, "__name__", None) or repr(token)


def _shown_contents(kind: type[Any], *contents: Any) -> str:
    shown: Callable[[Any], str] = _shown
    if issubclass(kind, dict):
        text = f"{{{', '.join(f'{shown(k)}: {shown(v)}' for k, v in contents)}}}"
    elif issubclass(kind, (list, tuple)):
        inner = ", ".join(map(shown, contents))
        text = f"[{inner}]" if issubclass(kind, list) else f"({inner})"
    else:
        text = f"a {kind.__name__}" + (" of other contents" if contents else "")
    return text if len(text) <= 100 else f"{text[:97]}..."
