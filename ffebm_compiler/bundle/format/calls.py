"""How a model is called, as data: which argument, and which leaf of a nested one, is which input of the program.

model(image, {"mask": m}, scale=2.0)    call = ([Ref("image"), {"mask": Ref("mask")}], {"scale": Ref("scale")})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import InputError, Problem, close_matches
from ...ir import Ref
from .contents import Mode
from .program_checks import refs


def bound_call(mode: Mode, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The program's inputs by name, from a call of the model.

    Args:
        name: of the model, for the error.

    Raises:
        InputError: with every argument that is missing, unknown or of another nesting.
    """
    inputs = mode.program.inputs
    call: Any = mode.call if mode.call is not None else [[Ref(n) for n in inputs], {}]
    positional, named = list(call[0]), dict(call[1])
    found: dict[str, Any] = dict(mode.defaults)
    problems: list[Problem] = []
    arguments = [_name_of(p, mode, i) for i, p in enumerate(positional)]
    named_already = {r.name.partition("[")[0] for r in refs(call)}
    optional = [n for n in inputs if n not in named_already]
    arguments, positional = (
        [*arguments, *(mode.program.labels.get(n, n) for n in optional)],
        [*positional, *map(Ref, optional)],
    )
    if len(args) > len(positional):
        problems.append(
            Problem(f"call of {name}", f"has {len(args)} arguments", f"It takes {', '.join([*arguments, *named])}.")
        )
    for where, nest, value in zip(arguments, positional, args, strict=False):
        problems += _match(where, nest, value, found)
    rest = dict(zip(arguments[len(args) :], positional[len(args) :], strict=True)) | named
    for key, value in kwargs.items():
        if key in rest:
            problems += _match(key, rest[key], value, found)
        else:
            problems.append(Problem(f"argument {key} of {name}", "is unknown", close_matches(key, [*rest])))
    nests = _nests(found)
    found |= {n: nests[n] for n in inputs if n not in found and n in nests}
    missing = [n for n in inputs if n not in found]
    if missing and not problems:
        labels = ", ".join(mode.program.labels.get(n, n) for n in missing)
        takes = ", ".join(dict.fromkeys([*arguments, *named]))
        problems.append(Problem(f"call of {name}", f"lacks {labels}", f"Call it as the original model: ({takes})."))
    if problems := problems or [*_size_problems(mode, found)]:
        raise InputError(problems)
    return {n: found[n] for n in inputs}


def _size_problems(mode: Mode, found: Mapping[str, Any]) -> Iterator[Problem]:
    """Sizes that the program does not hold for."""
    known: dict[str, int] = {}
    for name, sizes in mode.sizes.items():
        given = tuple(getattr(found[name], "shape", ()))
        expected = tuple(
            s if isinstance(s, int) else s if len(given) <= i else known.setdefault(s, given[i])
            for i, s in enumerate(sizes)
        )
        if given != expected:
            what = f"is of shape {given}, and the bundle holds for ({', '.join(map(str, expected))}) alone"
            yield Problem(
                f"argument {mode.program.labels.get(name, name)}",
                f"{what}: other sizes are another program",
                "Compile a bundle with an example of this shape.",
            )


def _name_of(nest: Any, mode: Mode, place: int) -> str:
    return mode.program.labels.get(nest.name, nest.name) if isinstance(nest, Ref) else f"argument {place + 1}"


def _nests(leaves: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Of ``name[0]``, ``name[1]``, ... the list by name, None where a leaf is not given."""
    places: dict[str, dict[int, Any]] = {}
    for key, value in leaves.items():
        name, bracket, place = key.rpartition("[")
        if bracket and place[:-1].isdecimal():
            places.setdefault(name, {})[int(place[:-1])] = value
    return {name: [found.get(i) for i in range(max(found) + 1)] for name, found in places.items()}


def _match(where: str, nest: Any, value: Any, found: dict[str, Any]) -> list[Problem]:
    """Puts the leaves of a value where the nest says."""
    if isinstance(nest, Ref):
        found[nest.name] = value
        return []
    if isinstance(nest, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(nest):
            return [Problem(where, f"is {_shown(value)}", f"Give a dictionary of {', '.join(map(str, nest))}.")]
        return [p for k, n in nest.items() for p in _match(f"{where}[{k!r}]", n, value[k], found)]
    if isinstance(nest, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(value) != len(nest):
            return [Problem(where, f"is {_shown(value)}", f"Give a sequence of {len(nest)}.")]
        pairs = zip(nest, value, strict=True)
        return [p for i, (n, v) in enumerate(pairs) for p in _match(f"{where}[{i}]", n, v, found)]
    if value is nest or (type(value) is type(nest) and value == nest):
        return []
    what = f"is {_shown(value)}, and was {nest!r} when the bundle was compiled: it chooses the path through the model"
    return [Problem(f"argument {where}", what, "Compile a bundle for it.")]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(str, value))}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)[:60]
    return f"a {type(value).__name__}"
