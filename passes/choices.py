"""What the user chose by name: ``digital=`` and ``analog=``, held against the calls that the model makes.

A name stands for calls: those of a layer, or of everything inside a container that is called. A name of a layer that is never
called on its own chooses nothing, and so is an error that says what is called instead.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx, nn

from ..errors import OptionError, Problem, close_matches
from ..ir import Origin
from .canonicalize import Canonical
from .whole import WHOLE

Choice = Sequence[str] | Callable[[str, nn.Module | None], bool]
"""The user's choice of layers: names (a container means all within, ``*`` matches, ``""`` is the model itself), or a predicate of name and module."""


def chosen(canonical: Canonical, choice: Choice, option: str) -> set[fx.Node]:
    """The calls that a choice names.

    Raises:
        OptionError: a predicate fails.
    """
    calls = [n for n in canonical.graph.nodes if n.op.startswith("call")]
    if callable(choice):
        return {n for n in calls if _asked(choice, n, canonical, option)}
    names = _Names.of(first_names(canonical.network, choice))
    return {n for n in calls if names.name(canonical.origins[n])}


def _asked(choice: Callable[[str, nn.Module | None], bool], node: fx.Node, canonical: Canonical, option: str) -> bool:
    origin, layer = canonical.origins[node], node.op == "call_module"
    name, module = (origin.layer, canonical.network.get_submodule(origin.layer)) if layer else (origin.label, None)
    try:
        return bool(choice(name, module))
    except Exception as failure:  # the user's code may raise anything
        kind = "the function" if module is None else f"a {type(module).__name__},"
        advice = "It is asked of every layer that is called, and of every function with None for the module."
        what = f"its predicate raised {type(failure).__name__} for {kind} {name!r}: {failure}"
        raise OptionError(Problem(f"option {option}", what, advice)) from failure


@dataclass(frozen=True)
class _Names:
    """Names of a choice.

    Attributes:
        plain: those that name one layer or function each, a layer with all that it holds.
        patterns: those with ``*``.
    """

    plain: frozenset[str]
    patterns: tuple[str, ...]

    @staticmethod
    def of(names: Iterable[str]) -> _Names:
        names = tuple(names)
        return _Names(frozenset(n for n in names if "*" not in n), tuple(n for n in names if "*" in n))

    def name(self, origin: Origin) -> bool:
        """Whether a call is named."""
        plain = (WHOLE, origin.label, origin.layer, *filter(None, _above(origin.layer)))
        return not self.plain.isdisjoint(plain) or any(
            _matches(p, path) for p in self.patterns for path in (origin.label, origin.layer)
        )


def first_names(network: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """The names, a layer's other names given as its first: the one that a trace calls it by."""
    first = _first_names(network)
    return tuple(dict.fromkeys(first.get(name, name) for name in names))


def _first_names(network: nn.Module) -> dict[str, str]:
    """By each name of a layer, its first."""
    first = {id(module): path for path, module in network.named_modules()}
    return {path: first[id(module)] for path, module in network.named_modules(remove_duplicate=False)}


# --- names that choose nothing ----------------------------------------------------------------------------


def check_choices(canonicals: Sequence[Canonical], digital: Choice, analog: Choice) -> None:
    """Holds the names against the calls of every mode: a layer may be called in one of them only.

    Raises:
        OptionError: every name that is no layer, or is of a layer that is never called on its own.
    """
    wholes = {} if callable(digital) else dict.fromkeys(first_names(canonicals[0].network, digital))
    seen = _Seen.of(canonicals, wholes)
    problems = [
        Problem(f"option {option}", *found)
        for option, choice in (("digital", digital), ("analog", analog))
        if not callable(choice)
        for name in dict.fromkeys(choice)
        if (found := seen.problem(name, option)) is not None
    ]
    if problems:
        raise OptionError(problems)


@dataclass(frozen=True)
class _Seen:
    """What the traces of all modes saw of a model.

    Attributes:
        network: the model.
        first: by each name of a layer, its first.
        called: the paths of the layers whose forward ran, or that are called as a whole.
        wholes: the paths of the layers that are called as a whole.
        kept: the layers that ``digital=`` names, which are so for that.
        reasons: why others are, as far as it was their forward that asked for it.
        origins: of every call.
        readers: by the path of a tensor that calls read, the first of them.
        blind: whether a layer may have been called and have left nothing in a trace.
    """

    network: nn.Module
    first: Mapping[str, str]
    called: frozenset[str]
    wholes: frozenset[str]
    kept: Collection[str]
    reasons: Mapping[str, str]
    origins: Sequence[Origin]
    readers: Mapping[str, str]
    blind: bool

    @staticmethod
    def of(canonicals: Sequence[Canonical], kept: Collection[str]) -> _Seen:
        nodes = [(n, c) for c in canonicals for n in c.graph.nodes]
        return _Seen(
            network=canonicals[0].network,
            first=_first_names(canonicals[0].network),
            called=frozenset(path for c in canonicals for path in c.called),
            wholes=frozenset(str(n.target) for n, _ in nodes if n.op == "call_module"),
            kept=kept,
            reasons={path: f": {why}" for c in canonicals for path, why in c.traced.whole.items()},
            origins=[c.origins[n] for n, c in nodes if n.op.startswith("call")],
            readers={
                str(n.target): c.origins[u].label
                for n, c in reversed(nodes)
                if n.op == "get_attr"
                for u in list(n.users)[:1]
                if u in c.origins
            },
            blind=any(c.traced.tracer == "torch.export" for c in canonicals),
        )

    def problem(self, name: str, option: str) -> tuple[str, str] | None:
        """What is wrong with a name, and what to do."""
        first = self.first.get(name, name)
        if first == WHOLE or first in self._calls:
            return None
        if "*" in first and any(_matches(first, path) for path in self._calls):
            return None
        modules = dict(self.network.named_modules())
        if first not in modules:
            return self._unknown(name, modules)
        if self.blind and not [*modules[first].children(), *modules[first].parameters()]:
            return None
        return self._inside(first, option) or self._uncalled(first, modules[first], option)

    @cached_property
    def _calls(self) -> frozenset[str]:
        """Every name that a call goes by."""
        return self.called.union(*((o.label, o.layer) for o in self.origins))

    def _unknown(self, name: str, modules: Iterable[str]) -> tuple[str, str]:
        known = list(dict.fromkeys([*(o.label for o in self.origins), *filter(None, modules)]))
        if "*" in name:
            return f"{name!r} matches no layer that the model calls", close_matches(name.replace("*", ""), known)
        return f"the model has no layer {name!r}", close_matches(name, known)

    def _inside(self, name: str, option: str) -> tuple[str, str] | None:
        """Of a layer inside one that is called as a whole."""
        around = next((p for p in _above(name) if p in self.wholes), None)
        if around is None:
            return None
        title = f"{around!r}" if around else "the model itself"
        kind = type(self.network.get_submodule(around)).__name__
        why = " since digital= names it" if around in self.kept else self.reasons.get(around, "")
        remedy = (
            f"Name one of the two; without {title} in digital=, its layers are called one by one."
            if around in self.kept
            else f"Name {title}: what is inside can't be chosen."
        )
        return f"{name!r} is inside of {title} ({kind}), which is called as a whole{why}", remedy

    def _uncalled(self, name: str, module: nn.Module, option: str) -> tuple[str, str]:
        """Of a layer of the model that no trace saw called."""
        kind = type(module).__name__
        parts = [p for p in sorted(self.called, key=_place) if p.startswith(f"{name}.")]
        nearest = [p for p in parts if not any(_is_within(p, q) for q in parts)]
        if nearest:
            shown = ", ".join(map(repr, nearest[:4])) + (", ..." if len(nearest) > 4 else "")
            what = f"{name!r} is a {kind} that is never called itself; what it holds is: {shown}"
            return what, f"Name those, or all of them: {option}=[{name + '.*'!r}]."
        read = next(((p, r) for p, r in self.readers.items() if p.startswith(f"{name}.")), None)
        if read is not None:
            what = f"{name!r} ({kind}) is never called: the model reads {read[0]} in {read[1]!r}"
            return what, f"Name that call: {option}=[{read[1]!r}]."
        return f"{name!r} ({kind}) is never called, in training or in evaluation", f"Take it out of {option}=."


def _matches(pattern: str, path: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern)


def _above(path: str) -> Iterator[str]:
    """The paths of the layers around a layer, the nearest first, and the model itself."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _is_within(path: str, around: str) -> bool:
    return path.startswith(f"{around}.")


def _place(path: str) -> list[tuple[int, str]]:
    """``layers.2`` before ``layers.10``."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in path.split(".")]
