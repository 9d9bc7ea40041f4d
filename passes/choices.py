"""What the user named, held against the calls that the model makes: ``digital=``, ``analog=`` and rules of their own.

A name stands for calls: those of a layer, or of everything inside a container that is called. A name of a layer that
is never called on its own chooses nothing, and so is an error that says what is called instead; a rule that matches
nothing is worth a warning.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property

from torch import fx, nn

from ..errors import OptionError, Problem, close_matches
from ..ir import Origin
from ..rules import Rule, Rules
from .canonicalize import Canonical
from .graph.names import function_name
from .stages import WHOLE

Choice = Sequence[str] | Callable[[str, nn.Module | None], bool]
"""The user's choice of layers: names (a container means all within, ``*`` matches, ``""`` is the model itself), or a
predicate of name and module."""


def chosen(canonical: Canonical, choice: Choice, option: str) -> set[fx.Node]:
    """The calls that a choice names.

    Raises:
        OptionError: a predicate fails.
    """
    calls = [n for n in canonical.graph.nodes if n.op.startswith("call")]
    if callable(choice):
        return {n for n in calls if _predicted(choice, n, canonical, option)}
    names = first_names(canonical.network, choice)
    plain, patterns = frozenset(n for n in names if "*" not in n), [n for n in names if "*" in n]
    return {n for n in calls if _is_named(canonical.origins[n], plain, patterns)}


def _predicted(
    choice: Callable[[str, nn.Module | None], bool], node: fx.Node, canonical: Canonical, option: str
) -> bool:
    origin, layer = canonical.origins[node], node.op == "call_module"
    name, module = (origin.layer, canonical.network.get_submodule(origin.layer)) if layer else (origin.label, None)
    try:
        return bool(choice(name, module))
    except Exception as failure:  # the user's code may raise anything
        kind = "the function" if module is None else f"a {type(module).__name__},"
        advice = "It is asked of every layer that is called, and of every function with None for the module."
        what = f"its predicate raised {type(failure).__name__} for {kind} {name!r}: {failure}"
        raise OptionError(Problem(f"option {option}", what, advice)) from failure


def _is_named(origin: Origin, plain: frozenset[str], patterns: Sequence[str]) -> bool:
    """Whether a call is one of a layer or function with that name, or in a layer with that name."""
    paths = (WHOLE, origin.label, origin.layer, *filter(None, _above(origin.layer)))
    return not plain.isdisjoint(paths) or any(_matches(p, path) for p in patterns for path in paths[1:3])


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
    seen = _Seen(canonicals, () if callable(digital) else first_names(canonicals[0].network, digital))
    problems = [
        Problem(f"option {option}", *wrong)
        for option, choice in (("digital", digital), ("analog", analog))
        if not callable(choice)
        for name in dict.fromkeys(choice)
        if (wrong := seen.problem(name, option)) is not None
    ]
    if problems:
        raise OptionError(problems)


class _Seen:
    """What the traces of all modes saw of a model.

    Args:
        canonicals: those traces.
        kept: the layers that ``digital=`` names, which are called as a whole for that.
    """

    def __init__(self, canonicals: Sequence[Canonical], kept: Collection[str]):
        nodes = [(n, c) for c in canonicals for n in c.graph.nodes]
        self.network, self.kept = canonicals[0].network, kept
        self.first = _first_names(self.network)
        self.called = frozenset(path for c in canonicals for path in c.called)  # or whose forward ran
        self.wholes = frozenset(str(n.target) for n, _ in nodes if n.op == "call_module")
        self.reasons = {path: f": {why}" for c in canonicals for path, why in c.traced.whole.items()}
        self.origins = [c.origins[n] for n, c in nodes if n.op.startswith("call")]
        self.readers = {  # by the path of a tensor that calls read, the first of them
            str(n.target): c.origins[u].label
            for n, c in reversed(nodes)
            if n.op == "get_attr"
            for u in list(n.users)[:1]
            if u in c.origins
        }
        self.may_miss = _opened(canonicals)  # a layer that was called and left nothing in a trace

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
        if self.may_miss and not [*modules[first].children(), *modules[first].parameters()]:
            return None
        return self._inside(first) or self._uncalled(first, modules[first], option)

    @cached_property
    def _calls(self) -> frozenset[str]:
        """Every name that a call goes by."""
        return self.called.union(*((o.label, o.layer) for o in self.origins))

    def _unknown(self, name: str, modules: Iterable[str]) -> tuple[str, str]:
        known = list(dict.fromkeys([*(o.label for o in self.origins), *filter(None, modules)]))
        if "*" in name:
            return f"{name!r} matches no layer that the model calls", close_matches(name.replace("*", ""), known)
        return f"the model has no layer {name!r}", close_matches(name, known)

    def _inside(self, name: str) -> tuple[str, str] | None:
        """Of a layer inside one that is called as a whole."""
        around = next((p for p in _above(name) if p in self.wholes), None)
        if around is None:
            return None
        title = f"{around!r}" if around else "the model itself"
        kind = type(self.network.get_submodule(around)).__name__
        what = f"{name!r} is inside of {title} ({kind}), which is called as a whole"
        if around in self.kept:
            remedy = f"Name one of the two; without {title} in digital=, its layers are called one by one."
            return f"{what} since digital= names it", remedy
        return f"{what}{self.reasons.get(around, '')}", f"Name {title}: what is inside can't be chosen."

    def _uncalled(self, name: str, module: nn.Module, option: str) -> tuple[str, str]:
        """Of a layer of the model that no trace saw called."""
        kind = type(module).__name__
        parts = [p for p in sorted(self.called, key=_numbered) if p.startswith(f"{name}.")]
        nearest = [p for p in parts if not any(p.startswith(f"{q}.") for q in parts)]
        if nearest:
            shown = ", ".join(map(repr, nearest[:4])) + (", ..." if len(nearest) > 4 else "")
            what = f"{name!r} is a {kind} that is never called itself; what it holds is: {shown}"
            return what, f"Name those, or all of them: {option}=[{name + '.*'!r}]."
        for path, reader in self.readers.items():
            if path.startswith(f"{name}."):
                what = f"{name!r} ({kind}) is never called: the model reads {path} in {reader!r}"
                return what, f"Name that call: {option}=[{reader!r}]."
        return f"{name!r} ({kind}) is never called, in training or in evaluation", f"Take it out of {option}=."


def _matches(pattern: str, path: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern)


def _above(path: str) -> Iterator[str]:
    """The paths of the layers around a layer, the nearest first, and the model itself."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _numbered(path: str) -> list[tuple[int, str]]:
    """``layers.2`` before ``layers.10``."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in path.split(".")]


# --- rules that match nothing -----------------------------------------------------------------------------


def unused_rules(canonicals: Sequence[Canonical], rules: Rules) -> Iterator[str]:
    """A sentence for each rule of the user's that matched no call, in training or in evaluation."""
    matched = {id(rule) for canonical in canonicals for rule in canonical.matched}
    for rule in rules.own:
        if id(rule) not in matched:
            why = _why_unused(rule, canonicals)
            yield f"The rule {rule.name!r} for {_spellings(rule)} matched no call of the model. {why}"


def _spellings(rule: Rule) -> str:
    """What a rule is to match."""
    names = [
        *(kind.__name__ for kind in rule.modules),
        *(f"{function_name(function)}()" for function in rule.functions),
        *(f".{method}()" for method in rule.methods),
    ]
    return ", ".join(names) or "nothing"


def _why_unused(rule: Rule, canonicals: Sequence[Canonical]) -> str:
    """What kept it from matching, as far as that shows."""
    for path, module in canonicals[0].network.named_modules():
        for kind in (k for k in rule.modules if isinstance(module, k)):
            if "forward" in vars(module) or type(module).forward is not kind.forward:
                name = f"{type(module).__name__} {path!r}" if path else type(module).__name__
                return f"{name} has a forward of its own, and so computes something else: name its class in modules=."
            if all(path not in c.called for c in canonicals):
                return f"{path!r} is a {kind.__name__}, but is never called on its own."
            return f"{path!r} was opened by torch.export." if _opened(canonicals) else f"Another rule reads {path!r}."
    if rule.functions and _opened(canonicals):
        return (
            "torch.export opens functions to operations of torch.ops.aten: name those in functions=, or a module's "
            "class in modules=."
        )
    if rule.functions:
        return "torch.fx traces through a function unless it is decorated with torch.fx.wrap."
    return "The model has no such layer."


def _opened(canonicals: Sequence[Canonical]) -> bool:
    """Whether torch.export has opened the layers of the model."""
    return any(c.traced.tracer == "torch.export" for c in canonicals)
