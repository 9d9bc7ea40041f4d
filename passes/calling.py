"""How a model is called and what it returns, as data: which part of which argument is which input of the program, and
what has to stay as it was traced.

    forward(x, mask=None, scale=1.0)    x, scale: inputs of the program;  mask: None, which chooses the path
    example_inputs=(x, {"a": m})        x, mask['a']: inputs;             scale: an input, if it traces as a value
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
from .size_choices import SizeChoice


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
        kind: what it was when the model was traced: ``Tensor``, a number's type, ``object`` for anything, or None where
            no example said.
        dtype: of a tensor whose type the trace depends on.
        sizes: of a tensor whose sizes the trace depends on: numbers, and symbols of those that may change, one symbol
            where they are alike.
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
        given: dict[int, Any] = {}
        problems = [
            p for name, part in self.parts.items() for p in self._match(part, bound.arguments[name], name, given)
        ]
        problems = problems or self._other_sizes(given)
        if problems:
            raise InputError(problems)
        return tuple(given[i] for i in range(len(self.inputs)))

    @property
    def names(self) -> tuple[str, ...]:
        """An identifier for each input, each once."""
        names: dict[str, None] = {}
        for entry in self.inputs:
            name, number = entry.name, 0
            while name in names:
                name, number = f"{entry.name}_{number}", number + 1
            names[name] = None
        return tuple(names)

    def made(self, values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The call as it was traced, with these values of the inputs: (args, kwargs)."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name in self.positional:
            value = put_together(self.parts[name], values)
            args += value if self._kind_of(name) is inspect.Parameter.VAR_POSITIONAL else [value]
        for name in self.named:
            value = put_together(self.parts[name], values)
            kwargs |= value if self._kind_of(name) is inspect.Parameter.VAR_KEYWORD else {name: value}
        return args, kwargs

    def _kind_of(self, name: str) -> Any:
        return self.signature.parameters[name].kind

    # --- matching ------------------------------------------------------------------------------------------

    def _match(self, part: Part, value: Any, where: str, given: dict[int, Any]) -> Iterator[Problem]:
        """Notes the values of the inputs in a part of an argument, and says what is wrong with it."""
        if isinstance(part, Leaf):
            given[part.index] = value
            yield from _problems_of(self.inputs[part.index], value)
        elif isinstance(part, Fixed):
            if not _same(part.value, value):
                was = f"was {_shown(part.value)} when the model was traced: it chooses the path through it"
                yield _differs(where, value, was)
        else:
            yield from self._match_branch(part, value, where, given)

    def _match_branch(self, part: Branch, value: Any, where: str, given: dict[int, Any]) -> Iterator[Problem]:
        now = opened(value) if type(value) is part.type else None
        if now is None:
            yield _differs(where, value, f"was a {part.type.__name__} when the model was traced")
        elif (now.steps, len(now.parts)) != (part.steps, len(part.parts)):
            what = f"has {_listed(now)}, and had {_listed(part)} when the model was traced"
            yield _problem(where, what, "has these")
        else:
            for inner, inside, step in zip(part.parts, now.parts, part.steps, strict=True):
                yield from self._match(inner, inside, where + step, given)

    def _other_sizes(self, given: Mapping[int, Any]) -> list[Problem]:
        """Sizes that were one when the model was traced, and differ, or that would answer the forward otherwise."""
        sizes: dict[str, int] = {}
        names: dict[str, str] = {}
        problems = []
        symbols = ((i, dim, s) for i, entry in enumerate(self.inputs) for dim, s in enumerate(entry.sizes or ()))
        for i, dim, symbol in symbols:
            if isinstance(symbol, str):
                where, size = self.inputs[i].where, given[i].shape[dim]
                first = sizes.setdefault(symbol, size)
                other = names.setdefault(symbol, f"{where}.shape[{dim}]")
                if first != size:
                    what = f"has size {size} in dimension {dim}, and {other} is {first}: they were one"
                    problems.append(_problem(where, f"{what} when the model was traced", "has these sizes"))
        return problems or [
            Problem(
                f"call with {', '.join(f'{names[s]} = {size}' for s, size in sizes.items() if s in choice.symbols)}",
                f"is another case of {choice.in_words(names)} ({choice.place}), which was {choice.answer} when the "
                "model was traced",
                AGAIN.format(what="has this size"),
            )
            for choice in self.choices
            if not choice.holds(sizes)
        ]


# --- what is wrong with an argument --------------------------------------------------------------------------


def _problem(where: str, what: str, again: str) -> Problem:
    """Of an argument, by what to convert with an example of."""
    return Problem(f"argument {_quoted(where)}", what, AGAIN.format(what=again))


def _differs(where: str, value: Any, was: str) -> Problem:
    return _problem(where, f"is {_shown(value)}, but {_quoted(where)} {was}", "gives this value")


def _quoted(where: str) -> str:
    return repr(where) if where.isidentifier() else where


def _problems_of(entry: Input, value: Any) -> Iterator[Problem]:
    where, chooses = entry.where, value is None or isinstance(value, (bool, str))
    if entry.kind is None and chooses:
        was = "was a value when the model was traced, and None, a flag or a text may choose another path"
        yield _differs(where, value, was)
    elif entry.kind is Tensor:
        yield from _tensor_problems(entry, value)
    elif entry.kind not in (None, object) and (chooses or not isinstance(value, (int, float, complex, Tensor))):
        yield _differs(where, value, "was a number when the model was traced")


def _tensor_problems(entry: Input, value: Any) -> Iterator[Problem]:
    where, sizes = entry.where, entry.sizes
    if not isinstance(value, Tensor):
        yield _differs(where, value, "was a tensor when the model was traced")
        return
    if entry.dtype is not None and _kind_of_number(value.dtype) != _kind_of_number(entry.dtype):
        what = f"is of {value.dtype}, and was of {entry.dtype} when the model was traced"
        yield _problem(where, what, "has this type")
    if sizes is None:
        return
    if len(sizes) != value.dim():
        what = f"has {value.dim()} dimensions, and had {len(sizes)} when the model was traced"
        yield _problem(where, what, "has as many")
        return
    for dim, (was, now) in enumerate(zip(sizes, value.shape, strict=True)):
        if isinstance(was, int) and was != now:
            what = f"has size {now} in dimension {dim}, and the trace of the model holds for {was} alone"
            yield _problem(where, what, "has this size")


def _kind_of_number(dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return "bool"
    return "complex" if dtype.is_complex else "float" if dtype.is_floating_point else "int"


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
    return one is other or (isinstance(one, PLAIN) and type(one) is type(other) and bool(one == other))


# --- making a form -------------------------------------------------------------------------------------------


_NONE_GIVEN: Mapping[Any, Any] = {inspect.Parameter.VAR_POSITIONAL: (), inspect.Parameter.VAR_KEYWORD: {}}
"""What ``*args`` and ``**kwargs`` are where nobody has shown a call."""


def takes_only_rest(forward: Callable[..., Any]) -> bool:
    """Whether a forward has its arguments by ``*args`` alone, so that a call without any is none."""
    kinds = [p.kind for p in inspect.signature(forward).parameters.values() if p.default is p.empty]
    return inspect.Parameter.VAR_POSITIONAL in kinds and all(k in _NONE_GIVEN for k in kinds)


def form_by_signature(forward: Callable[..., Any], numbers: bool = True, rest: int = 0) -> CallForm:
    """The form of a call that nobody has shown: what has no default is an input; what may choose a path stays.

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
        self.parts[name] = self._counted_on(Leaf(0), name, name, kind)

    def add_each(self, name: str, count: int) -> None:
        """A tuple of so many inputs."""
        part = take_apart(tuple(range(count)), lambda v: isinstance(v, int))[1]
        self.parts[name] = self._counted_on(part, name, name, None)

    def take(self, name: str, value: Any) -> None:
        """A part whose leaves are the tensors in a value, each place an input of its own."""
        part = take_apart(value, lambda v: isinstance(v, Tensor), once=False, name=f"argument {name}")[1]
        self.parts[name] = self._counted_on(part, name, name, Tensor)

    def _counted_on(self, part: Part, where: str, name: str, kind: type | None) -> Part:
        """A part whose leaves are the next inputs."""
        if isinstance(part, Leaf):
            self.inputs.append(Input(where, name, kind))
            return Leaf(len(self.inputs) - 1)
        if isinstance(part, Fixed):
            return part
        inner = zip(part.parts, part.steps, strict=True)
        return replace(part, parts=tuple(self._counted_on(p, where + step, name, kind) for p, step in inner))

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
            by_name = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
            if by_name or name not in passed or len(positional) >= by_position:
                break
            positional.append(name)
        named = [n for n in self.parts if n in passed and n not in positional]
        return CallForm(self.signature, self.parts, tuple(self.inputs), tuple(positional), tuple(named))


def outline_of(form: CallForm) -> tuple[object, ...]:
    """What two forms have in common if the same calls fit them: to be compared with ``==``."""
    return (form.inputs, form.choices, *((name, outline(part)) for name, part in form.parts.items()))
