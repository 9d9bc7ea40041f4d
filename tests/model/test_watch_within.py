"""What is changed after conversion and stands in containers, in files and in classes: the next call names it, or has
it.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.errors import ChangedError

GAIN, TABLE, COUNT, SEEN_BY_NOBODY = 2.0, {"gain": 2.0}, 0, 1.0


class Config:
    """A configuration object."""

    factor = 2.0

    def __init__(self) -> None:
        self.scale, self.note = 2.0, "nobody reads it"

    def apply(self, h: Tensor) -> Tensor:
        return h * self.scale


GLOBAL = Config()
BIAS = torch.full((3,), 2.0)


def scaled_by(h: Tensor, by: Config) -> Tensor:
    return h * by.scale


def helper(h: Tensor) -> Tensor:
    return h * GAIN


class Net(nn.Module):
    """A model whose last step reads something."""

    factor = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.cfgs, self.named, self.cache = [Config(), Config()], {"a.b": {"c": Config()}}, [Config()]
        self.fn, self.method = partial(scaled_by, by=Config()), Config().apply
        self.ts, self.t = [torch.full((3,), 2.0), torch.ones(3)], torch.full((3,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(torch.tanh(self.a(x))))

    def last(self, h: Tensor) -> Tensor:
        return h


class OfList(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * self.cfgs[0].scale


class OfDict(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * self.named["a.b"]["c"].scale


class OfPartial(Net):
    def last(self, h: Tensor) -> Tensor:
        return self.fn(h)


class OfMethod(Net):
    def last(self, h: Tensor) -> Tensor:
        return self.method(h)


class OfGlobal(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * GAIN


class OfGlobalDict(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * TABLE["gain"]


class OfGlobalObject(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * GLOBAL.scale


class OfHelper(Net):
    def last(self, h: Tensor) -> Tensor:
        return helper(h)


class OfProperty(Net):
    @property
    def gain(self) -> float:
        return GAIN

    def last(self, h: Tensor) -> Tensor:
        return h * self.gain


class OfType(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * type(self).factor


class OfNamedClass(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * Config.factor


class OfSuper(OfGlobal):
    def last(self, h: Tensor) -> Tensor:
        return super().last(h)


class OfClassmethod(Net):
    @classmethod
    def gain(cls) -> float:
        return cls.factor

    def last(self, h: Tensor) -> Tensor:
        return h * self.gain()


def _scale(way: Callable[[Any], Any]) -> Callable[[Any, pytest.MonkeyPatch], None]:
    return lambda model, patch: setattr(way(model), "scale", 5.0)


def _other(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.cfgs[0] = Config()
    model.cfgs[0].scale = 5.0


def _set(owner: Any, name: str) -> Callable[[Any, pytest.MonkeyPatch], None]:
    if isinstance(owner, dict):
        return lambda model, patch: patch.setitem(owner, name, 5.0)
    return lambda model, patch: patch.setattr(owner, name, 5.0)


WAS = r": was 2\.0 at conversion and is 5\.0 now"
NAMED: dict[str, tuple[type[Net], Callable[[Any, pytest.MonkeyPatch], None], str]] = {
    "an object in a list": (OfList, _scale(lambda m: m.cfgs[0]), r"attribute cfgs\[0\]\.scale of OfList" + WAS),
    "another in a list": (OfList, _other, r"attribute cfgs\[0\]\.scale of OfList" + WAS),
    "one in a dict of dicts": (
        OfDict,
        _scale(lambda m: m.named["a.b"]["c"]),
        r"attribute named\['a\.b'\]\['c'\]\.scale of OfDict" + WAS,
    ),
    "one in a partial": (
        OfPartial,
        _scale(lambda m: m.fn.keywords["by"]),
        r"attribute fn\.keywords\['by'\]\.scale of OfPartial" + WAS,
    ),
    "the owner of a method": (
        OfMethod,
        _scale(lambda m: m.method.__self__),
        r"attribute method\.__self__\.scale of OfMethod" + WAS,
    ),
    "a global number": (OfGlobal, _set(globals(), "GAIN"), "global GAIN of .*test_watch_within" + WAS),
    "an entry of a global": (OfGlobalDict, _set(TABLE, "gain"), "global TABLE of .*test_watch_within"),
    "a global object": (OfGlobalObject, lambda m, patch: patch.setattr(GLOBAL, "scale", 5.0), "GLOBAL.*scale.*" + WAS),
    "a global that a function reads": (OfHelper, _set(globals(), "GAIN"), "global GAIN of .*" + WAS),
    "a global that a property reads": (OfProperty, _set(globals(), "GAIN"), "global GAIN of .*" + WAS),
    "a global that an inherited method reads": (OfSuper, _set(globals(), "GAIN"), "global GAIN of .*" + WAS),
    "an attribute of its type": (OfType, _set(OfType, "factor"), "attribute factor of class OfType" + WAS),
    "an attribute of a base of its type": (OfType, _set(Net, "factor"), "attribute factor of class OfType" + WAS),
    "an attribute of a class": (OfNamedClass, _set(Config, "factor"), "attribute factor of class Config" + WAS),
    "what a class method reads": (OfClassmethod, _set(Net, "factor"), "attribute factor of class OfClassmethod" + WAS),
}
"""Changes that the program can't see, and what says so."""


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def _check_named(model: Any, change: Callable[[Any], None], words: str, x: Tensor) -> None:
    model(x)
    change(model)
    with pytest.raises(ChangedError, match=words):
        model(x)


@pytest.mark.slow
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("name", NAMED)
def test_what_stands_elsewhere_is_named(name: str, inner: bool, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, change, words = NAMED[name]
    model = fc.convert(nn.Sequential(kind(), nn.Tanh()) if inner else kind(), 1)
    if inner:
        words = words.replace(f" of {kind.__name__}", " of Sequential").replace("attribute ", r"attribute (0\.)?")
    model(x)
    change(model[0] if inner else model, monkeypatch)
    with pytest.raises(ChangedError, match=words):
        model(x)


@pytest.mark.parametrize(
    "name", ["an object in a list", "one in a dict of dicts", "a global number", "an attribute of its type"]
)
def test_copies_and_pickles_are_watched(name: str, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, change, words = NAMED[name]
    models = [fc.convert(kind(), 1)]
    models += [copy.deepcopy(models[0]), pickle.loads(pickle.dumps(models[0]))]
    for model in models:
        model(x)
        with monkeypatch.context() as patch:
            change(model, patch)
            with pytest.raises(ChangedError, match=words):
                model(x)


def test_the_original_is_watched(x: Tensor) -> None:
    net = OfList()
    model = fc.convert(net, 1, copy=False)
    model(x)
    net.cfgs[0].scale = 5.0
    with pytest.raises(ChangedError, match=r"cfgs\[0\]\.scale"):
        model(x)


def test_an_object_that_another_replaces_is_looked_at_anew(x: Tensor) -> None:
    class Direct(Net):
        def last(self, h: Tensor) -> Tensor:
            return h * self.cfg.scale

    net = Direct()
    net.cfg = Config()
    model = fc.convert(net, 1)
    before = model(x)
    model.cfg = Config()
    assert torch.equal(model(x), before)
    model.cfg.scale = 5.0
    with pytest.raises(ChangedError, match=r"attribute cfg\.scale of Direct"):
        model(x)


class Caches(Net):
    """What is kept for later calls, which changes nothing."""

    def last(self, h: Tensor) -> Tensor:
        if self.cache[0].note:
            self.cache[0].note = f"{self.cache[0].note}"
        return h * self.cfgs[0].scale


def _note(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.cache[0].note = "other"


UNREAD: dict[str, tuple[type[Net], Callable[[Any, pytest.MonkeyPatch], None]]] = {
    "another object of the list": (OfList, _scale(lambda m: m.cfgs[1])),
    "what nobody reads of it": (OfList, lambda m, patch: setattr(m.cfgs[0], "note", "other")),
    "what forward writes": (Caches, _note),
    "a global that nobody reads": (OfGlobal, _set(globals(), "SEEN_BY_NOBODY")),
    "an attribute of a class that nobody reads": (OfGlobal, _set(Net, "factor")),
    "an equal object": (OfList, lambda m, patch: m.cfgs.__setitem__(0, Config())),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_may_change(name: str, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, change = UNREAD[name]
    model = fc.convert(kind(), 1)
    before = model(x)
    change(model, monkeypatch)
    assert torch.equal(model(x), before)


def test_a_layer_that_is_called_as_it_is_reads_anew(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(OfGlobal(), nn.Linear(3, 2))
    model = fc.convert(net, 1, digital=["0"])
    before = model(x)
    monkeypatch.setitem(globals(), "GAIN", 5.0)
    assert not torch.equal(model(x), before)
    torch.testing.assert_close(model(x), net(x))


# --- tensors that are not registered -------------------------------------------------------------------------


class OfTensor(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * self.ts[0] + self.t


class OfEntry(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * float(self.ts[0][0])


class OfAttribute(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * float(self.t[0])


class OfGlobalTensor(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * BIAS


class Exported(Net):
    def last(self, h: Tensor) -> Tensor:
        return h * self.ts[0] if h.shape[0] > 1 else h


def _put(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.ts[0] = torch.full((3,), 5.0)


def _assigned(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.t = torch.full((3,), 5.0)


ANOTHER, OTHERWISE = "is another tensor than at conversion", "has other values than at conversion"
TENSORS: dict[str, tuple[type[Net], Callable[[Any, pytest.MonkeyPatch], None], str]] = {
    "another in a list": (OfTensor, _put, rf"attribute ts\[0\] of OfTensor: {ANOTHER}"),
    "another in a list that became a number": (OfEntry, _put, rf"attribute ts\[0\] of OfEntry: {OTHERWISE}"),
    "one that became a number": (
        OfEntry,
        lambda m, p: m.ts[0].fill_(5.0),
        rf"attribute ts\[0\] of OfEntry: {OTHERWISE}",
    ),
    "an attribute that became a number": (
        OfAttribute,
        lambda m, p: m.t.fill_(5.0),
        f"attribute t of OfAttribute: {OTHERWISE}",
    ),
    "another attribute that became a number": (OfAttribute, _assigned, f"attribute t of OfAttribute: {OTHERWISE}"),
    "another global": (OfGlobalTensor, lambda m, p: p.setitem(globals(), "BIAS", torch.ones(3)), f"BIAS.*{ANOTHER}"),
    "one that was exported": (
        Exported,
        lambda m, p: m.ts[0].fill_(5.0),
        rf"attribute ts\[0\] of Exported: {OTHERWISE}",
    ),
    "another than was exported": (Exported, _put, rf"attribute ts\[0\] of Exported: {OTHERWISE}"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_not_registered_are_named(name: str, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, change, words = TENSORS[name]
    model = fc.convert(kind(), 1, example_inputs=x if kind is Exported else None)
    model(x)
    for each in (copy.deepcopy(model), model):
        each(x)
        with monkeypatch.context() as patch:
            change(each, patch)
            with pytest.raises(ChangedError, match=words):
                each(x)


def test_the_tensors_of_the_original_are_watched(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    net = OfTensor()
    model = fc.convert(net, 1, copy=False)
    model(x)
    _put(net, monkeypatch)
    with pytest.raises(ChangedError, match=r"attribute ts\[0\] of OfTensor.*of the original"):
        model(x)


SEEN: dict[str, Callable[[Any, pytest.MonkeyPatch], object]] = {
    "written into one of a list": lambda m, p: m.ts[0].fill_(5.0),
    "written into an attribute": lambda m, p: m.t.fill_(5.0),
    "another attribute": _assigned,
    "registered ones": lambda m, p: m.load_state_dict({n: 2 * v for n, v in m.state_dict().items()}),
}


@pytest.mark.parametrize("name", SEEN)
def test_tensors_that_the_program_reads_as_it_runs_may_change(name: str, x: Tensor, monkeypatch: Any) -> None:
    net = OfTensor()
    model = fc.convert(net, 1)
    model(x)
    for each in (net, model):
        SEEN[name](each, monkeypatch)
    torch.testing.assert_close(model(x), net(x))


def test_a_model_of_another_type_holds_its_tensors(x: Tensor) -> None:
    model = fc.convert(OfTensor(), 1)
    model(x)
    model.double()
    model(x.double())


def test_a_computed_weight_is_not_computed_to_be_watched() -> None:
    """Spectral norm moves its vectors whenever its weight is asked for while it trains."""
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    before = {n: b.clone() for n, b in net.named_buffers()}
    model = fc.convert(net, 1)
    assert all(torch.equal(b, before[n]) for n, b in model.network.named_buffers())
