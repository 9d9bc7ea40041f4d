"""What Python keeps between calls of a model: the attributes of its modules and all that they hold, and what forwards
keep in classes, in their file and in closures. It is noted, compared with what is there later, and put back.

Registered tensors are no part of it, since whoever reads one reads it live; their places are. Plain tensors are.
"""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..torch_private import REGISTRIES

TRACERS_OWN = ("_tensor_constant", "_torchbind_obj", "_tree_spec_constant", "_opaque_obj")
"""What the tracer hangs on the model begins so, and is no state of the model's."""

_TORCHS = frozenset(vars(nn.Module()))
"""What torch keeps in every module: registries, hooks, the mode."""

_FOREIGN = ("torch", "numpy", "logging", "threading", "builtins", "ffebm_compiler", "importlib")
"""Whose classes and objects no forward keeps its own state in."""

GONE = object()
"""Stands for an attribute that is there no more."""


@dataclass(frozen=True)
class Owned:
    """Whose state something is: an attribute of the module at a path, or, without a path, a name in the user's file."""

    path: str | None
    name: str

    def __str__(self) -> str:
        return f"attribute {self.name!r}" if self.path is not None else f"{self.name!r}"

    def is_within(self, path: str) -> bool:
        """Whether it is state of the module at a path, or of one inside of it."""
        return self.path is not None and (self.path == path or self.path.startswith(f"{path}."))


def holder_of(stack: Iterable[str], state: Iterable[Owned], except_for: Iterable[str] = ()) -> str:
    """The innermost running module that holds all of a state; ``""``, the model itself, if there is no other."""
    owned, known = list(state), set(except_for)
    return next((path for path in stack if path not in known and all(o.is_within(path) for o in owned)), "")


@dataclass
class Holder:
    """Something that holds state, and what it held.

    Attributes:
        value: a dict, a list, an object's or a class's attributes, a tensor, a source of random numbers.
        content: what it held, read by its kind.
        owners: whose it is, more than one if modules share it; one without a name stands for the keys of the dict.
    """

    value: Any
    content: Any
    owners: list[Owned] = field(default_factory=list)

    @staticmethod
    def of(value: Any, *owners: Owned) -> Holder:
        return Holder(value, _kind_of(value).read(value), list(owners))

    def changes(self) -> set[Owned]:
        """What has changed since."""
        if isinstance(self.value, dict) and not self.is_refilled():
            return set()
        now = _kind_of(self.value).read(self.value)
        if is_alike(now, self.content):
            return set()
        return {changed for owner in self.owners for changed in self._named(owner, now)}

    def is_refilled(self) -> bool:
        """Whether a container holds other objects, if equal ones: torch.export puts copies of lists back."""
        now: Any = self.value
        before: Any = self.content
        if not isinstance(now, _CONTAINERS):
            return False
        if isinstance(now, set):  # whose copy may be in another order
            return bool(now != before)
        if len(now) != len(before) or not all(map(is_, now, before)):
            return True
        return isinstance(now, dict) and not all(map(is_, now.values(), before.values()))

    def _named(self, owner: Owned, now: Any) -> Iterator[Owned]:
        keys = [owner.name]
        if not owner.name:
            before = self.content
            keys = [str(k) for k in {**now, **before} if not is_alike(now.get(k, GONE), before.get(k, GONE))]
        yield from (Owned(owner.path, key) for key in keys if not key.startswith(TRACERS_OWN))

    def restore(self, keep: Callable[[str], bool] = lambda name: False) -> None:
        content = self.content
        if isinstance(self.value, dict):
            content = {**content, **{k: v for k, v in self.value.items() if isinstance(k, str) and keep(k)}}
        _kind_of(self.value).write(self.value, content)


class State:
    """The state of a model at one time, to be compared with and gone back to."""

    def __init__(self, network: nn.Module):
        self.holders: dict[int, Holder] = {}
        for path, module in network.named_modules():
            for space in (vars(module), *(vars(module)[r] for r in REGISTRIES)):
                self._hold(space, Owned(path, ""))
            for name, value in vars(module).items():
                if name not in _TORCHS:
                    self._walk(value, Owned(path, name))
        for kind in dict.fromkeys(type(m) for m in network.modules()):
            self._walk_class(kind)

    def changes(self) -> dict[int, set[Owned]]:
        """By holder, what has changed since."""
        changes = {key: holder.changes() for key, holder in self.holders.items()}
        return {key: owned for key, owned in changes.items() if owned}

    def restore(self, keep_constants: bool = False) -> None:
        """Puts everything back, in the very objects that held it.

        Args:
            keep_constants: whether what the tracer has hung on the model stays.
        """
        changed = [h for h in self.holders.values() if h.changes() or h.is_refilled()]
        for holder in changed:
            holder.restore(lambda name: keep_constants and name.startswith(TRACERS_OWN))

    def _walk_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if base.__module__.split(".")[0] in _FOREIGN:
                continue
            self._hold(base, Owned(None, ""))
            for name, value in _own_values(base).items():
                self._walk(value, Owned(None, name))
            forward = vars(base).get("forward")
            if isinstance(forward, types.FunctionType):
                self._walk_function(forward)

    def _walk_function(self, function: types.FunctionType) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if (content := _in_cell(cell)) and name != "__class__":
                self._hold(cell, Owned(None, name))
                self._walk(content[0], Owned(None, name))
        used = function.__globals__
        for name in function.__code__.co_names:
            if name in used and isinstance(used[name], (*_CONTAINERS, *GENERATORS)):
                self._walk(used[name], Owned(None, name))

    def _walk(self, value: Any, owner: Owned) -> None:
        if isinstance(value, (tuple, frozenset)):
            for each in value:
                self._walk(each, owner)
            return
        holder = vars(value) if _is_own_object(value) else value
        if isinstance(holder, _CONTAINERS) and self._hold(holder, owner):
            for each in list(holder.values() if isinstance(holder, dict) else holder):
                self._walk(each, owner)
        elif isinstance(holder, (*GENERATORS, np.ndarray)) or _is_plain_tensor(holder):
            self._hold(holder, owner)

    def _hold(self, value: Any, owner: Owned) -> bool:
        """Notes a holder and one more owner of it; says whether it is new to this owner."""
        if id(value) not in self.holders:
            self.holders[id(value)] = Holder.of(value)
        owners = self.holders[id(value)].owners
        if owner in owners:
            return False
        owners.append(owner)
        return True


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


def _is_own_object(value: Any) -> bool:
    """An object of the user's, no container, whose attributes are state."""
    if isinstance(
        value,
        (
            *_CONTAINERS,
            *GENERATORS,
            np.ndarray,
            nn.Module,
            Tensor,
            type,
            types.ModuleType,
            types.FunctionType,
            types.MethodType,
        ),
    ):
        return False
    return hasattr(value, "__dict__") and type(value).__module__.split(".")[0] not in _FOREIGN


# --- kinds of holders --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """How a holder's content is read, and written back."""

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]


def _refill(holder: Any, content: Any) -> None:
    holder.clear()
    (holder.extend if isinstance(holder, (list, deque)) else holder.update)(content)


def _own_values(owner: type) -> dict[str, Any]:
    """The attributes of a class that are values, not methods or descriptors."""
    values = {k: v for k, v in vars(owner).items() if not k.startswith("__")}
    return {k: v for k, v in values.items() if not callable(v) and not hasattr(v, "__get__")}


def _set_values(owner: type, content: Mapping[str, Any]) -> None:
    for name in _own_values(owner).keys() - content.keys():
        delattr(owner, name)
    for name, value in content.items():
        setattr(owner, name, value)


def _in_cell(cell: Any) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not bound yet
        return ()


class _Numbers:
    """A copy of a tensor, equal to one of the same numbers."""

    def __init__(self, tensor: Tensor):
        self.value, self.version = tensor.detach().clone(), tensor._version

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, _Numbers)
        a, b = self.value, other.value
        if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            return False
        if a.is_meta or a.is_quantized or a.layout is not torch.strided:  # whose entries can't be looked at
            return self.version == other.version
        return bool(((a == b) | ((a != a) & (b != b))).all())

    __hash__ = None  # type: ignore[assignment]

    def write(self, tensor: Tensor) -> None:
        with torch.no_grad():
            tensor.copy_(self.value)


_KINDS: Mapping[type, _Kind] = {
    dict: _Kind(dict, _refill),
    list: _Kind(list, _refill),
    deque: _Kind(list, _refill),
    set: _Kind(set, _refill),
    type: _Kind(_own_values, _set_values),
    types.CellType: _Kind(_in_cell, lambda cell, content: setattr(cell, "cell_contents", content[0])),
    Tensor: _Kind(_Numbers, lambda t, content: content.write(t)),
    np.ndarray: _Kind(np.copy, lambda a, content: np.copyto(a, content)),
    torch.Generator: _Kind(lambda g: _Numbers(g.get_state()), lambda g, content: g.set_state(content.value)),
    random.Random: _Kind(lambda r: r.getstate(), lambda r, content: r.setstate(content)),
    np.random.RandomState: _Kind(lambda r: r.get_state(legacy=False), lambda r, content: r.set_state(content)),
    np.random.Generator: _Kind(
        lambda r: dict(r.bit_generator.state), lambda r, content: setattr(r.bit_generator, "state", content)
    ),
}
_CONTAINERS = (dict, list, deque, set)
GENERATORS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
"""Sources of random numbers."""


def _kind_of(holder: Any) -> _Kind:
    return next(_KINDS[base] for base in type(holder).__mro__ if base in _KINDS)


# --- comparing --------------------------------------------------------------------------------------------


def is_alike(a: Any, b: Any, tensors: Callable[[Tensor, Tensor], bool] = is_, tolerance: float = 0.0) -> bool:
    """Whether two values are the same to someone who reads them.

    Args:
        a, b: any values.
        tensors: says which tensors are; by itself each is like itself alone.
        tolerance: of numbers, relative.
    """

    def alike(a: Any, b: Any) -> bool:
        if a is b:
            return True
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return tensors(a, b)
        if type(a) is not type(b):
            return False
        if isinstance(a, Mapping):
            return a.keys() == b.keys() and all(alike(v, b[k]) for k, v in a.items())
        if isinstance(a, (list, tuple, deque)):
            return len(a) == len(b) and all(map(alike, a, b))
        if isinstance(a, np.ndarray):
            return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
        if is_dataclass(a):
            return all(alike(getattr(a, f.name, GONE), getattr(b, f.name, GONE)) for f in fields(a))
        if isinstance(a, float):
            return bool(a == b or (a != a and b != b) or abs(a - b) <= tolerance * abs(b))
        try:
            return bool(a == b) or (hasattr(a, "__dict__") and alike(vars(a), vars(b)))
        except Exception:  # whatever the comparison of a user's own type raises
            return False

    return alike(a, b)
