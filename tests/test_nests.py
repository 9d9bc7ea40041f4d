"""Nests: every kind of value comes back as it was, with other leaves."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import InitVar, dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ffebm_compiler.nests import Fixed, NestError, map_nest, outline, put_together, take_apart, tensors_in

A, B = torch.tensor([1.0]), torch.tensor([2.0])


class Colour(Enum):
    RED = "red"


@dataclass
class Plain:
    a: Tensor
    b: Tensor | None = None
    kind: str = "plain"


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Tensor
    sizes: tuple[int, ...] = (1, 2)


@dataclass
class Computed:
    a: Tensor
    start: InitVar[float]
    total: Tensor = field(init=False)

    def __post_init__(self, start: float) -> None:
        self.total = self.a + start
        self.extra = self.total * 2


class Keyed(OrderedDict):  # type: ignore[type-arg]
    """Asks its constructor for something, and reaches its contents by attributes."""

    def __init__(self, first: Tensor):
        super().__init__(first=first)
        self.first = first

    def __iter__(self) -> Any:
        return iter(("nonsense",))


class Bag(dict):  # type: ignore[type-arg]
    def __init__(self, *, a: Tensor):
        super().__init__(a=a, n=1)


class Pair(NamedTuple):
    left: Tensor
    right: Any = None


class Sorted(namedtuple("Sorted", ["low", "high"])):
    """A constructor of its own."""

    def __new__(cls, values: list[Tensor]) -> Sorted:
        return super().__new__(cls, values[0], values[1])


class Stack(list):  # type: ignore[type-arg]
    def __init__(self, name: str, values: list[Tensor]):
        super().__init__(values)
        self.name = name


class Triple(tuple):  # type: ignore[type-arg]
    def __new__(cls, a: Tensor, b: Tensor) -> Triple:
        made = super().__new__(cls, (a, b, a))
        made.note = "three"  # type: ignore[attr-defined]
        return made


class Slotted:
    __slots__ = ("a", "unset")

    def __init__(self, a: Tensor):
        self.a = a


class Cache:
    def __init__(self, layers: list[Any]):
        self.layers, self.config = layers, SimpleNamespace(width=4)


CASES = {
    "tensor": A,
    "none": (None, A),
    "numbers": [1, 2.5, True, 3j, "text", b"bytes", Colour.RED, ..., torch.float32, torch.device("cpu"), A],
    "dict": {"a": A, 1: [B], Colour.RED: ()},
    "ordered": OrderedDict(b=A, a=B),
    "default": defaultdict(list, a=[A]),
    "counter": Counter({"x": 2}),
    "deque": deque([A, B], maxlen=3),
    "named": Pair(A),
    "named, own constructor": Sorted([A, B]),
    "list, own constructor": Stack("s", [A, B]),
    "tuple, own constructor": Triple(A, B),
    "dict, own constructor": Bag(a=A),
    "ordered, own constructor": Keyed(A),
    "dataclass": Plain(A),
    "frozen with slots": Frozen(A),
    "computed fields": Computed(A, 1.0),
    "nested": {"x": [Plain(A, B), (Frozen(A), Pair(Plain(B), {"z": Stack("t", [A])}))]},
    "slots": Slotted(A),
    "object": Cache([Plain(A), Slotted(B)]),
    "namespace": SimpleNamespace(a=A, n=1),
    "return type": torch.topk(torch.arange(4.0), 2),
    "return type, dim": torch.arange(4.0).view(2, 2).max(1),
    "size": (torch.Size([1, 2]), A),
}


def same(got: Any, value: Any) -> bool:
    """Like each other in every type, content and attribute, by other means than nests have."""
    if type(got) is not type(value):
        return False
    if isinstance(value, Tensor):
        return torch.equal(got, value + 10)
    parts = []
    if isinstance(value, dict):
        parts += [(dict.get(got, k), v) for k, v in dict.items(value)]
        if list(dict.keys(got)) != list(dict.keys(value)):
            return False
    elif isinstance(value, (tuple, list, deque)):
        if len(got) != len(value):
            return False
        parts += zip(type(value).__mro__[-2].__iter__(got), type(value).__mro__[-2].__iter__(value), strict=True)
    held = dict(getattr(value, "__dict__", {})) if not isinstance(value, Enum) else {}
    held |= {n: getattr(value, n) for n in getattr(type(value), "__slots__", ()) if hasattr(value, n)}
    parts += [(getattr(got, n, None), v) for n, v in held.items()] if type(value).__module__ == __name__ else []
    return all(same(a, b) for a, b in parts) if parts or held else got == value


@pytest.mark.parametrize("name", CASES)
def test_comes_back_as_it_was_with_other_leaves(name: str) -> None:
    value = CASES[name]
    made = map_nest(value, lambda v: isinstance(v, Tensor), lambda t: t + 10)
    assert same(made, value)


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("object", "slots")])
def test_structures_pickle_and_compare(name: str) -> None:
    leaves, part = take_apart(CASES[name], lambda v: isinstance(v, Tensor))
    again = pickle.loads(pickle.dumps(part))
    assert outline(again)[0] == outline(part)[0]
    assert outline(take_apart(CASES[name], lambda v: isinstance(v, Tensor))[1]) == outline(part)
    assert type(put_together(again, leaves)) is type(CASES[name])


def test_what_stands_at_two_places_is_one() -> None:
    shared = [A]
    made = map_nest({"a": shared, "b": (shared, A)}, lambda v: isinstance(v, Tensor), lambda t: t + 1)
    assert made["a"] is made["b"][0]
    assert made["a"][0] is made["b"][1]
    model_output = Keyed(A)
    again = map_nest(model_output, lambda v: isinstance(v, Tensor), lambda t: t + 1)
    assert again.first is dict.get(again, "first")


def test_lists_of_constants_are_new_each_time() -> None:
    _, part = take_apart((A, [1, 2]), lambda v: isinstance(v, Tensor))
    first, second = put_together(part, [A]), put_together(part, [A])
    assert first == second
    assert first[1] is not second[1]


def test_an_object_without_leaves_is_itself() -> None:
    thing = SimpleNamespace
    _, part = take_apart(thing, lambda v: isinstance(v, Tensor))
    assert part == Fixed(thing)


@pytest.mark.parametrize("value", [{A}, iter([A]), (lambda: A), (t for t in [A]), {"a": A}.values()])
def test_refuses_what_hides_leaves(value: Any) -> None:
    if getattr(value, "__closure__", True) is None:
        hidden = A
        value = lambda: hidden  # noqa: E731
    with pytest.raises(NestError, match="can't be taken apart") as raised:
        take_apart({"x": [value]}, lambda v: isinstance(v, Tensor))
    assert raised.value.where == "['x'][0]"


def test_refuses_what_contains_itself() -> None:
    loop: list[Any] = [A]
    loop.append(loop)
    with pytest.raises(NestError, match="contains itself"):
        take_apart(loop, lambda v: isinstance(v, Tensor))
    assert tensors_in(loop) == []


def test_tensors_of_any_nest() -> None:
    assert [float(t) for t in tensors_in(CASES["nested"])] == [1.0, 2.0]
