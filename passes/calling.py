"""How a model is called and what it returns, as data: which part of which argument is which input of the program, and what has to stay as it was traced.

forward(x, mask=None, scale=1.0)    x, scale: inputs of the program;  mask: None, which chooses the path through the model
example_inputs=(x, {"a": m})        x, mask['a']: inputs;             scale: an input where it can be traced as a value
"""

from __future__ import annotations

import inspect
import keyword
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, Problem
from ..nests import PLAIN, Branch, Fixed, Leaf, Part, opened, outline, put_together, take_apart
from .export.size_choices import SizeChoice


def itself(output: Any) -> Any:
    """The result of a graph whose output is the model's own."""
    return output


@dataclass(frozen=True)
class ResultForm:
    """The type of a model's result: calling it makes one of the outputs of the graph."""

    part: Part

    def __call__(self, leaves: Sequence[Any]) -> Any:
        return put_together(self.part, leaves)


def parameters_of(forward: Any) -> inspect.Signature:
    """The signature of a forward without its annotations, which may be anything."""
    signature = inspect.signature(forward)
    return inspect.Signature([p.replace(annotation=p.empty) for p in signature.parameters.values()])


AGAIN = "Convert again with example_inputs= that {what}, or call it as it was converted."


@dataclass(frozen=True)
class Input:
    """One input of the program.

    Attributes:
        where: the argument, or the part of it, as Python writes it.
        parameter: the forward's parameter that it is in.
        kind: what it was when the model was traced: ``Tensor``, a number's type, ``object`` for anything, or None where no example said.
        dtype: of a tensor whose type the trace depends on.
        sizes: of a tensor whose sizes the trace depends on: numbers, and symbols of those that may change, together where they are alike.
    """

    where: str
    parameter: str
    kind: type | None = None
    dtype: torch.dtype | None = None
    sizes: tuple[int | str, ...] | None = None

    @property
    def name(self) -> str:
        """As an identifier."""
        name = re.sub(r"\W+", "_", self.where).strip("_") or "value"
        return f"{name}_" if keyword.iskeyword(name) else name


@dataclass(frozen=True)
class CallForm:
    """How a model was called when it was traced; calling it binds another call.

    Attributes:
        signature: the forward's, without annotations.
        parts: what became of each parameter: its leaves are the inputs.
        inputs: in the order of the program's.
        positional, named: the parameters that were given, by position and by name; a forward may ask which are.
        choices: what the forward asked of sizes.
    """

    signature: inspect.Signature
    parts: Mapping[str, Part]
    inputs: tuple[Input, ...]
    positional: tuple[str, ...]
    named: tuple[str, ...]
    choices: tuple[SizeChoice, ...] = ()

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of the inputs.

        Raises:
            TypeError: the call does not fit the forward's signature.
            InputError: an argument is not as it was when the model was traced; names all of them.
        """
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found: dict[int, Any] = {}
        problems = [
            p for name, part in self.parts.items() for p in self._match(part, bound.arguments[name], name, found)
        ]
        problems += self._other_sizes(found) if not problems else []
        if problems:
            raise InputError(problems)
        return tuple(found[i] for i in range(len(self.inputs)))

    @property
    def names(self) -> tuple[str, ...]:
        """An identifier for each input, each once."""
        found: dict[str, None] = {}
        for entry in self.inputs:
            name, number = entry.name, 0
            while name in found:
                name, number = f"{entry.name}_{number}", number + 1
            found[name] = None
        return tuple(found)

    def made(self, values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The call as it was traced, with these values of the inputs: (args, kwargs)."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name in self.positional:
            value = put_together(self.parts[name], values)
            args += value if self._is(name, inspect.Parameter.VAR_POSITIONAL) else [value]
        for name in self.named:
            value = put_together(self.parts[name], values)
            kwargs |= value if self._is(name, inspect.Parameter.VAR_KEYWORD) else {name: value}
        return args, kwargs

    def _is(self, name: str, kind: Any) -> bool:
        return self.signature.parameters[name].kind is kind

    # --- matching ------------------------------------------------------------------------------------------

    def _match(self, part: Part, value: Any, where: str, found: dict[int, Any]) -> Iterator[Problem]:
        if isinstance(part, Leaf):
            found[part.index] = value
            yield from _problems_of(self.inputs[part.index], value)
        elif isinstance(part, Fixed):
            if not _same(part.value, value):
                yield _differs(
                    where, value, f"was {_shown(part.value)} when the model was traced: it chooses the path through it"
                )
        else:
            yield from self._match_branch(part, value, where, found)

    def _match_branch(self, part: Branch, value: Any, where: str, found: dict[int, Any]) -> Iterator[Problem]:
        given = opened(value) if type(value) is part.type else None
        if given is None:
            yield _differs(where, value, f"was a {part.type.__name__} when the model was traced")
        elif (given.steps, len(given.parts)) != (part.steps, len(part.parts)):
            yield Problem(
                _argument(where),
                f"has {_listed(given)}, and had {_listed(part)} when the model was traced",
                AGAIN.format(what="has these"),
            )
        else:
            for inner, inside, step in zip(part.parts, given.parts, part.steps, strict=True):
                yield from self._match(inner, inside, where + step, found)

    def _other_sizes(self, found: Mapping[int, Any]) -> list[Problem]:
        """Sizes that were one when the model was traced, and differ, or of which the forward asks what would be
        answered otherwise."""
        sizes: dict[str, int] = {}
        names: dict[str, str] = {}
        problems = []
        for i, dim, symbol in self._symbols():
            where, given = self.inputs[i].where, found[i].shape[dim]
            first = sizes.setdefault(symbol, given)
            other = names.setdefault(symbol, f"{where}.shape[{dim}]")
            if first != given:
                what = f"has size {given} in dimension {dim}, and {other} is {first}: they were one when the model was traced"
                problems.append(Problem(_argument(where), what, AGAIN.format(what="has these sizes")))
        return problems or [
            Problem(
                f"call with {', '.join(f'{names[s]} = {size}' for s, size in sizes.items() if s in choice.symbols)}",
                f"is another case of {choice.in_words(names)} ({choice.place}), which was {choice.answer} when the model was traced",
                AGAIN.format(what="has this size"),
            )
            for choice in self.choices
            if not choice.holds(sizes)
        ]

    def _symbols(self) -> Iterator[tuple[int, int, str]]:
        """(input, dimension, symbol) of each size that may change."""
        for i, entry in enumerate(self.inputs):
            yield from ((i, dim, size) for dim, size in enumerate(entry.sizes or ()) if isinstance(size, str))


# --- what is wrong with an argument --------------------------------------------------------------------------


def _problems_of(entry: Input, value: Any) -> Iterator[Problem]:
    where, chooses = entry.where, value is None or isinstance(value, (bool, str))
    if entry.kind is None and chooses:
        yield _differs(
            where, value, "was a value when the model was traced, and None, a flag or a text may choose another path"
        )
    elif entry.kind is Tensor:
        yield from _tensor_problems(entry, value)
    elif entry.kind not in (None, object) and (chooses or not isinstance(value, (int, float, complex, Tensor))):
        yield _differs(where, value, "was a number when the model was traced")


def _tensor_problems(entry: Input, value: Any) -> Iterator[Problem]:
    where = _argument(entry.where)
    if not isinstance(value, Tensor):
        yield _differs(entry.where, value, "was a tensor when the model was traced")
        return
    if entry.dtype is not None and _kind_of_number(value.dtype) != _kind_of_number(entry.dtype):
        what = f"is of {value.dtype}, and was of {entry.dtype} when the model was traced"
        yield Problem(where, what, AGAIN.format(what="has this type"))
    sizes = entry.sizes
    if sizes is None:
        return
    if len(sizes) != value.dim():
        what = f"has {value.dim()} dimensions, and had {len(sizes)} when the model was traced"
        yield Problem(where, what, AGAIN.format(what="has as many"))
        return
    for dim, (was, given) in enumerate(zip(sizes, value.shape, strict=True)):
        if isinstance(was, int) and was != given:
            what = f"has size {given} in dimension {dim}, and the trace of the model holds for {was} alone"
            yield Problem(where, what, AGAIN.format(what="has this size"))


def _kind_of_number(dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return "bool"
    return "complex" if dtype.is_complex else "float" if dtype.is_floating_point else "int"


def _differs(where: str, value: Any, was: str) -> Problem:
    name = repr(where) if where.isidentifier() else where
    return Problem(f"argument {name}", f"is {_shown(value)}, but {name} {was}", AGAIN.format(what="gives this value"))


def _argument(where: str) -> str:
    return f"argument {where!r}" if where.isidentifier() else f"argument {where}"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if isinstance(value, PLAIN) and len(text) <= 60 else f"a {type(value).__name__}"


def _listed(branch: Branch) -> str:
    if branch.kind.keyed or branch.names:
        return f"the parts {', '.join(branch.steps) or 'none'}"
    return f"{len(branch.parts)} entries"


def _same(one: Any, other: Any) -> bool:
    """Whether two values choose the same path."""
    if one is other:
        return True
    plain = isinstance(one, PLAIN) and type(one) is type(other)
    return plain and bool(one == other)


# --- making a form -------------------------------------------------------------------------------------------


_NONE_GIVEN: Mapping[Any, Any] = {inspect.Parameter.VAR_POSITIONAL: (), inspect.Parameter.VAR_KEYWORD: {}}
"""What ``*args`` and ``**kwargs`` are where nobody has shown a call."""


def takes_only_rest(forward: Callable[..., Any]) -> bool:
    """Whether a forward has its arguments by ``*args`` alone, so that a call without any is none."""
    kinds = [p.kind for p in inspect.signature(forward).parameters.values() if p.default is p.empty]
    return inspect.Parameter.VAR_POSITIONAL in kinds and all(k in _NONE_GIVEN for k in kinds)


def form_by_signature(forward: Callable[..., Any], numbers: bool = True, rest: int = 0) -> CallForm:
    """The form of a call that nobody has shown: whatever has no default is an input, a default that may choose a path stays.

    Args:
        forward: the model's.
        numbers: whether arguments that default to a number or a tensor are inputs too.
        rest: how many arguments ``*args`` has.
    """
    maker = _Maker(forward)
    for name, parameter in maker.signature.parameters.items():
        if rest and parameter.kind is parameter.VAR_POSITIONAL:
            maker.add_each(name, rest)
        elif parameter.kind in _NONE_GIVEN:
            maker.fix(name, _NONE_GIVEN[parameter.kind])
        elif parameter.default is parameter.empty or (numbers and _is_value(parameter.default)):
            maker.add(name)
        else:
            maker.fix(name, parameter.default)
    return maker.form(maker.needed())


def form_of_anything(forward: Callable[..., Any]) -> CallForm:
    """The form of a forward that is not looked into: every argument is an input, whatever it is."""
    maker = _Maker(forward)
    for name in maker.signature.parameters:
        maker.add(name, object)
    return maker.form(maker.parts)


def form_of_call(
    forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], numbers: bool = True
) -> CallForm:
    """The form of an example call: its tensors are inputs, whatever else is in it stays.

    Args:
        forward: the model's.
        args, kwargs: the call.
        numbers: whether arguments that are numbers, and no flags, are inputs too.

    Raises:
        TypeError: the call does not fit the forward's signature.
        NestError: an argument can't be taken apart.
    """
    maker = _Maker(forward)
    bound = maker.signature.bind(*args, **kwargs)
    given = set(bound.arguments)
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        if numbers and _is_value(value) and not isinstance(value, Tensor):
            maker.add(name, type(value))
        else:
            maker.take(name, value)
    return maker.form(given | maker.needed(), len(args))


def _is_value(default: Any) -> bool:
    return isinstance(default, (int, float, complex, Tensor)) and not isinstance(default, bool)


class _Maker:
    """Collects the parts of a form."""

    def __init__(self, forward: Callable[..., Any]):
        self.signature = parameters_of(forward)
        self.parts: dict[str, Part] = {}
        self.inputs: list[Input] = []

    def fix(self, name: str, value: Any) -> None:
        self.parts[name] = take_apart(value, lambda v: False)[1]

    def add(self, name: str, kind: type | None = None) -> None:
        self.parts[name] = Leaf(len(self.inputs))
        self.inputs.append(Input(name, name, kind))

    def add_each(self, name: str, count: int) -> None:
        """A tuple of so many inputs."""
        self._place(name, take_apart(tuple(range(count)), lambda v: isinstance(v, int))[1], None)

    def take(self, name: str, value: Any) -> None:
        """A part whose leaves are the tensors in a value, each place an input of its own."""
        leaves, part = take_apart(value, lambda v: isinstance(v, Tensor), once=False, name=f"argument {name}")
        assert self._place(name, part, Tensor) == len(leaves)

    def _place(self, name: str, part: Part, kind: type | None) -> int:
        places = [*_places(part, name)]
        self.parts[name] = _shifted(part, len(self.inputs))
        self.inputs += [Input(where, name, kind) for where in places]
        return len(places)

    def needed(self) -> set[str]:
        """The parameters that inputs are in, and those before one that is given by position alone."""
        parameters = self.signature.parameters
        inputs = {i.parameter for i in self.inputs}
        alone = [i for i, (n, p) in enumerate(parameters.items()) if n in inputs and p.kind is p.POSITIONAL_ONLY]
        return inputs | set([*parameters][: max(alone, default=0)])

    def form(self, passed: Collection[str], by_position: float = math.inf) -> CallForm:
        """The form in which those parameters are passed, at most so many by position."""
        positional: list[str] = []
        for name, parameter in self.signature.parameters.items():
            if (
                parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
                or name not in passed
                or len(positional) >= by_position
            ):
                break
            positional.append(name)
        named = [n for n in self.parts if n in passed and n not in positional]
        return CallForm(self.signature, self.parts, tuple(self.inputs), tuple(positional), tuple(named))


def _places(part: Part, where: str) -> Iterator[str]:
    if isinstance(part, Leaf):
        yield where
    elif isinstance(part, Branch):
        for inner, step in zip(part.parts, part.steps, strict=True):
            yield from _places(inner, where + step)


def _shifted(part: Part, by: int) -> Part:
    """The part with its leaves counted from another number."""
    if isinstance(part, Leaf):
        return Leaf(part.index + by)
    if isinstance(part, Fixed):
        return part
    return replace(part, parts=tuple(_shifted(p, by) for p in part.parts))


def outline_of(form: CallForm) -> tuple[object, ...]:
    """What two forms have in common if the same calls fit them: to be compared with ``==``."""
    return (form.inputs, form.choices, *((name, outline(part)) for name, part in form.parts.items()))
