"""Nests of values: what a model is called with and what it returns, taken apart into leaves and put together in their
own types.

A value is remade from its parts without its constructor: its contents by the built-in type that it derives from, its
attributes one by one. So a frozen dataclass, a named tuple with a ``__new__`` of its own, a ``ModelOutput`` or a
cache of transformers come back as they were, whatever their constructors ask for or compute.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .torch_private import SUPPORTED_NODES


@dataclass(frozen=True)
class Leaf:
    """The leaf of that number."""

    index: int


@dataclass(frozen=True)
class Fixed:
    """A value that is the same each time."""

    value: Any


@dataclass(frozen=True)
class Branch:
    """A value that has parts.

    Attributes:
        number: tells it from other branches: a value that stands at two places is one value again.
        type: the value's own class.
        kind: how its contents are made.
        keys: of its contents, what ``kind`` needs besides them.
        names: of its attributes.
        parts: its contents, then its attributes.
    """

    number: int
    type: type
    kind: Kind
    keys: tuple[Any, ...]
    names: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """How each part is reached from the value, as Python writes it."""
        contents = len(self.parts) - len(self.names)
        keys = self.keys[:contents] if self.kind.keyed else range(contents)
        return (*(f"[{k!r}]" for k in keys), *(f".{n}" for n in self.names))


Part = Leaf | Fixed | Branch


@dataclass(frozen=True)
class Kind:
    """What the classes that derive from one built-in type have in common.

    Attributes:
        base: the type.
        apart: ``value -> (keys, contents)``.
        make: ``(class, keys, contents) -> value``.
        keyed: whether the keys name the contents.
    """

    base: type
    apart: Callable[[Any], tuple[tuple[Any, ...], tuple[Any, ...]]]
    make: Callable[[Any, tuple[Any, ...], Sequence[Any]], Any]
    keyed: bool = False


class NestError(TypeError):
    """A value that has leaves inside, and can't be taken apart.

    Args:
        where: the steps to it.
        what: what is wrong with it.
    """

    def __init__(self, where: str, what: str):
        super().__init__(f"{where} {what}".strip())
        self.where, self.what = where, what


# --- kinds -------------------------------------------------------------------------------------------------


def _items(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return tuple(dict.keys(value)), tuple(dict.values(value))


def _ordered_items(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    keys = tuple(OrderedDict.keys(value))
    return keys, tuple(dict.__getitem__(value, k) for k in keys)


def _default_items(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    keys, contents = _items(value)
    return (*keys, value.default_factory), contents


def _make_tuple(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    if cls is tuple:
        return tuple(contents)
    own = hasattr(cls, "n_sequence_fields") or cls is torch.Size  # torch.return_types: built in C
    return cls(contents) if own else tuple.__new__(cls, contents)


def _make_list(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    if cls is list:
        return list(contents)
    made = list.__new__(cls)
    list.extend(made, contents)
    return made


def _make_dict(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    if cls is dict:
        return dict(zip(keys, contents, strict=True))
    made = dict.__new__(cls)
    for key, value in zip(keys, contents, strict=True):
        dict.__setitem__(made, key, value)
    return made


def _make_ordered(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    made = OrderedDict.__new__(cls)
    for key, value in zip(keys, contents, strict=True):
        OrderedDict.__setitem__(made, key, value)
    return made


def _make_default(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    made = _make_dict(cls, keys[:-1], contents)
    made.default_factory = keys[-1]
    return made


def _make_deque(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    made = deque.__new__(cls)
    deque.__init__(made, contents, *keys)
    return made


def _make_slice(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    return cls(*contents)


def _make_registered(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    return SUPPORTED_NODES[cls].unflatten_fn(contents, keys[0])


def _registered_items(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    contents, context = SUPPORTED_NODES[type(value)].flatten_fn(value)
    return (context,), tuple(contents)


def _make_object(cls: Any, keys: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    return SimpleNamespace.__new__(cls) if issubclass(cls, SimpleNamespace) else object.__new__(cls)


def _no_contents(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (), ()


def _tuple_items(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (), tuple(tuple.__iter__(value))


def _list_items(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (), tuple(list.__iter__(value))


def _deque_items(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (value.maxlen,), tuple(deque.__iter__(value))


def _slice_items(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (), (value.start, value.stop, value.step)


KINDS: tuple[Kind, ...] = (
    Kind(tuple, _tuple_items, _make_tuple),
    Kind(list, _list_items, _make_list),
    Kind(OrderedDict, _ordered_items, _make_ordered, keyed=True),
    Kind(defaultdict, _default_items, _make_default, keyed=True),
    Kind(dict, _items, _make_dict, keyed=True),
    Kind(deque, _deque_items, _make_deque),
    Kind(slice, _slice_items, _make_slice),
    Kind(SimpleNamespace, _no_contents, _make_object),
)
"""Of the built-in types; the first that a value is an instance of says how its contents are taken apart."""

REGISTERED = Kind(object, _registered_items, _make_registered)
"""Of classes that were registered with torch's pytrees, by ``torch.utils._pytree.register_pytree_node`` for one."""

OBJECT = Kind(object, _no_contents, _make_object)
"""Of every other class: attributes alone."""

PLAIN = (bool, int, float, complex, str, bytes, range, type, type(None), type(...), enum.Enum, nn.Module)
"""What has no parts."""


def _kind_of(value: Any) -> Kind | None:
    """How a value is taken apart; None for one without parts, as far as Python tells."""
    if isinstance(value, PLAIN):
        return None
    known = next((k for k in KINDS if isinstance(value, k.base)), None)
    if known is None and type(value) in SUPPORTED_NODES and not is_dataclass(value):
        return REGISTERED
    return known or (OBJECT if _is_of_python(type(value)) else None)


def _is_of_python(cls: Any) -> bool:
    """Whether an object of the class is its attributes and no more."""
    try:
        object.__new__(cls)
    except TypeError:
        return False
    return cls is not object


def _attributes(value: Any, kind: Kind) -> dict[str, Any]:
    """What an object holds in its dictionary or in slots."""
    if kind is REGISTERED:
        return {}
    declared = (c.__dict__.get("__slots__", ()) for c in type(value).__mro__)
    slots = [n for names in declared for n in ((names,) if isinstance(names, str) else names)]
    held = {n: getattr(value, n) for n in slots if n not in ("__dict__", "__weakref__") and hasattr(value, n)}
    return {**held, **getattr(value, "__dict__", {})}


# --- taking apart and putting together -------------------------------------------------------------------


def take_apart(value: Any, is_leaf: Callable[[Any], bool], once: bool = True, name: str = "") -> tuple[list[Any], Part]:
    """The leaves of a value, and how to put it together again.

    Args:
        value: any value.
        is_leaf: says which values are leaves.
        name: of the value, for errors.
        once: whether what stands at two places is one leaf, or one branch: so it will be put together.

    Raises:
        NestError: a leaf may be in something that can't be taken apart; it says where.
    """
    taker = _Taker(is_leaf, once)
    part = taker.part(value, name)
    return taker.leaves, part


def put_together(part: Part, leaves: Sequence[Any]) -> Any:
    """The value whose leaves are ``leaves``."""
    return _put_together(part, leaves, {})


def _put_together(part: Part, leaves: Sequence[Any], made: dict[int, Any]) -> Any:
    if isinstance(part, Leaf):
        return leaves[part.index]
    if isinstance(part, Fixed):
        return part.value
    if part.number in made:
        return made[part.number]
    parts = [_put_together(p, leaves, made) for p in part.parts]
    contents = len(parts) - len(part.names)
    value = part.kind.make(part.type, part.keys, parts[:contents])
    for name, held in zip(part.names, parts[contents:], strict=True):
        object.__setattr__(value, name, held)
    made[part.number] = value
    return value


def map_nest(value: Any, is_leaf: Callable[[Any], bool], f: Callable[[Any], Any]) -> Any:
    """The value with ``f`` of its leaves in their places."""
    leaves, part = take_apart(value, is_leaf)
    return put_together(part, [f(leaf) for leaf in leaves])


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a value, each once, in order; those that can't be reached are left out."""
    try:
        return take_apart(value, is_tensor)[0]
    except NestError:
        return []


class _Taker:
    """Collects leaves while it takes a value apart."""

    def __init__(self, is_leaf: Callable[[Any], bool], once: bool = True):
        self.is_leaf, self.once = is_leaf, once
        self.leaves: list[Any] = []
        self.known: dict[int, tuple[Any, Part]] = {}  # by identity; the value is kept, that its number stays its own
        self.open: set[int] = set()
        self.count = 0

    def part(self, value: Any, where: str) -> Part:
        if id(value) in self.known:
            return self.known[id(value)][1]
        if id(value) in self.open:
            raise NestError(where, f"is a {type(value).__name__} that contains itself")
        self.open.add(id(value))
        part = self.new_part(value, where)
        self.open.discard(id(value))
        if self.once and not isinstance(part, Fixed):
            self.known[id(value)] = value, part
        return part

    def new_part(self, value: Any, where: str) -> Part:
        if self.is_leaf(value):
            self.leaves.append(value)
            return Leaf(len(self.leaves) - 1)
        kind = _kind_of(value)
        if kind is None:
            self.require_closed(value, where)
            return Fixed(value)
        return self.branch(value, kind, where)

    def branch(self, value: Any, kind: Kind, where: str) -> Part:
        shell = _opened(value, kind, self.count)
        self.count += 1
        parts = tuple(self.part(v, where + step) for v, step in zip(shell.parts, shell.steps, strict=True))
        same_each_time = kind is OBJECT and not is_dataclass(value) and all(isinstance(p, Fixed) for p in parts)
        return Fixed(value) if same_each_time else replace(shell, parts=parts)

    def require_closed(self, value: Any, where: str) -> None:
        """Refuses what may hide a leaf."""
        if isinstance(value, PLAIN) or hasattr(value, "__array__"):
            return
        hidden = isinstance(value, Iterator) or getattr(value, "__closure__", None) or isinstance(value, partial)
        if isinstance(value, Collection) and not hidden:
            items = [*value.items()] if isinstance(value, Mapping) else [*value]
            hidden = bool(_Taker(self.is_leaf).found_in(items))
        if hidden:
            raise NestError(where, f"is a {type(value).__name__}, which can't be taken apart and put together again")

    def found_in(self, items: list[Any]) -> list[Any]:
        self.part(items, "")
        return self.leaves


def opened(value: Any) -> Branch | None:
    """A value's own parts, themselves not taken apart; None if it has none."""
    kind = _kind_of(value)
    return None if kind is None else _opened(value, kind, 0)


def _opened(value: Any, kind: Kind, number: int) -> Branch:
    keys, contents = kind.apart(value)
    attributes = _attributes(value, kind)
    return Branch(number, type(value), kind, keys, tuple(attributes), (*contents, *attributes.values()))


# --- comparing --------------------------------------------------------------------------------------------


def outline(part: Part) -> tuple[object, ...]:
    """What two parts have in common if they put together alike: to be compared with ``==``."""
    if isinstance(part, Leaf):
        return ("leaf", part.index)
    if isinstance(part, Fixed):
        value = part.value
        return ("fixed", type(value), repr(value) if isinstance(value, PLAIN) else id(value))
    return ("branch", part.number, part.type, repr(part.keys), part.names, *(outline(p) for p in part.parts))
