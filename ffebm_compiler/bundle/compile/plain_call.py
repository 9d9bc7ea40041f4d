"""How a model is called, as plain containers: what a bundle can say of the form of a call."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import OptionError
from ...ir import Ref
from ...nests import Branch, Fixed, Leaf, Part
from ...passes.calling import CallForm

PLAIN = (bool, int, float, str, type(None))
CONTAINERS = (dict, list, tuple)


def plain_call(
    form: CallForm, inputs: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """``Mode.call`` and ``Mode.defaults`` of a program: ``Ref`` leaves are inputs, or places in a nested one.

    Args:
        form: how the model was traced.
        inputs: the program's, in the order of the form's.
        args, kwargs: a call, which is spelled as others will be.

    Raises:
        OptionError: an argument that a bundle can't be called with, such as an object of a class of the user's.
    """
    maker = _Maker(form, inputs)
    call = [maker.nest(part, value, where) for part, value, where in _by_position(form, args)]
    named = {name: maker.nest(_part_named(form, name), value, name) for name, value in kwargs.items()}
    given = form.signature.bind(*args, **kwargs)
    before = set(given.arguments)
    given.apply_defaults()
    left = {n: v for n, v in given.arguments.items() if n not in before}
    defaults = {inputs[p.index]: v for n, v in left.items() if isinstance(p := form.parts[n], Leaf)}
    return [call, named], defaults


def _by_position(form: CallForm, args: Sequence[Any]) -> Iterator[tuple[Part, Any, str]]:
    parameters = [p for p in form.signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    for i, value in enumerate(args):
        at = next((k for k, p in enumerate(parameters[: i + 1]) if p.kind is p.VAR_POSITIONAL), None)
        if at is None:
            yield form.parts[parameters[i].name], value, parameters[i].name
        else:
            rest = form.parts[parameters[at].name]
            assert isinstance(rest, Branch)
            yield rest.parts[i - at], value, f"{parameters[at].name}[{i - at}]"


def _part_named(form: CallForm, name: str) -> Part:
    if name in form.parts:
        return form.parts[name]
    rest = next(n for n, p in form.signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD)
    found = form.parts[rest]
    assert isinstance(found, Branch)
    return found.parts[found.keys.index(name)]


class _Maker:
    """Writes parts as nests."""

    def __init__(self, form: CallForm, inputs: Sequence[str]):
        self.form, self.inputs = form, inputs

    def nest(self, part: Part, value: Any, where: str) -> Any:
        if isinstance(part, Leaf):
            name = self.inputs[part.index]
            return self.places(value, name, itertools.count()) if isinstance(value, CONTAINERS) else Ref(name)
        if isinstance(part, Fixed):
            return part.value if isinstance(part.value, PLAIN) else self.refuse(part.value, where)
        if part.type not in CONTAINERS:
            self.refuse(value, where)
        held = [*value.values()] if isinstance(value, dict) else [*value]
        entries = [self.nest(p, v, where + step) for p, v, step in zip(part.parts, held, part.steps, strict=True)]
        return dict(zip(part.keys, entries, strict=True)) if part.kind.keyed else entries

    def places(self, value: Any, name: str, numbers: Iterator[int]) -> Any:
        """The leaves of an input that is a nest itself: by their place in it."""
        if isinstance(value, dict):
            return {k: self.places(v, name, numbers) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.places(v, name, numbers) for v in value]
        return Ref(f"{name}[{next(numbers)}]")

    def refuse(self, value: Any, where: str) -> None:
        raise OptionError.at(
            f"argument {where}",
            f"is a {type(value).__name__}, which a bundle can't be called with",
            "Give forward tensors, numbers, and dictionaries, lists or tuples of them.",
        )
