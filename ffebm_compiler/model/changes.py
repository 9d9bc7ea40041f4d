"""What has changed of a model since its conversion, by value: each change as a problem in the user's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import ChangedError, Problem
from ..passes.torch_private import HOOKS
from ..passes.watching.attribute_tokens import MISSING, TENSOR, Code, token_at
from ..passes.watching.paths import reach
from ..passes.watching.recorder import MODE, Watched
from ..passes.watching.tensors import TensorValue, Unregistered, is_same_tensor, value_of

AGAIN = "Undo it, or convert again: fc.convert(model.to_feedforward(), ...)."
BUFFER = "Undo it, or convert again: fc.convert(model.to_feedforward(), ...). What is to change while the model runs is a buffer or a digital layer."
OWN_MODE = (
    "Keep the layer out of blocks by digital=[{name!r}], which calls it as a whole in whatever mode it is, or set the mode in the "
    "model's own train(), before converting."
)
UNHOOK = "Remove it, or register it on the original before converting, or keep the layer out of blocks by digital=[{name!r}]."

_MODES = {True: "training", False: "evaluation"}


def require_unchanged(network: nn.Module, watched: Iterable[Watched]) -> None:
    """Compares a model with what was read of it at conversion.

    Raises:
        ChangedError: with everything that has changed.
    """
    ChangedError.raise_if(dict.fromkeys(p for entry in watched for p in changes(network, entry)))


def changes(network: nn.Module, entry: Watched) -> Iterator[Problem]:
    """What has changed of one entry."""
    try:
        owner = reach(network, entry.path)
    except AttributeError:
        yield Problem(f"layer {entry.path}", "was there at conversion and is gone", AGAIN)
        return
    if entry.kind is not None and not is_of(owner, entry.kind):
        before, now = _told_apart(entry.kind, type(owner))
        yield Problem(_place(entry), f"was a {before} at conversion and is a {now} now", AGAIN)
        return
    if entry.tensor is not None and not is_tensor_of(network, owner, entry.tensor):
        yield tensor_problem(network, entry, owner)
    yield from _hooked(owner, entry)
    yield from _restructured(network, owner, entry)
    for name, token in entry.values.items():
        if (now := token_at(owner, name)) != token:
            yield _attribute_problem(network, entry, owner, name, token, now)


def is_tensor_of(network: nn.Module, tensor: Any, wanted: str | TensorValue) -> bool:
    """Whether a tensor is what the program has in its place."""
    if isinstance(wanted, TensorValue):
        return value_of(tensor) == wanted
    return is_same_tensor(tensor, reach(network, wanted))


def tensor_problem(network: nn.Module, entry: Watched, now: Any) -> Problem:
    """A tensor that is not registered, and is no more what it was."""
    kind = "tensor" if isinstance(now, Tensor) else "generator of random numbers"
    what = (
        f"is another {kind} than at conversion"
        if isinstance(now, Unregistered)
        else f"was a tensor or a generator and is {now!r} now"
    )
    if isinstance(entry.tensor, TensorValue) and isinstance(now, Tensor):
        what = "has other values than at conversion, which the program holds"
    return Problem(f"attribute {entry.path} of {type(network).__name__}", what, BUFFER)


def is_of(owner: Any, kind: type[Any]) -> bool:
    """Whether an object is of a class; a parametrization makes a class of its own, which computes what its base does."""
    return type(owner) is kind or (parametrize.is_parametrized(owner) and kind in type(owner).__bases__)


def _told_apart(*kinds: type[Any]) -> list[str]:
    """The names of classes, with their modules where those are needed to tell them apart: adapters have the names of what they replace."""
    alike = len({k.__name__ for k in kinds}) < len(kinds)
    return [f"{k.__module__}.{k.__name__}" if alike else k.__name__ for k in kinds]


def _place(entry: Watched) -> str:
    return f"layer {entry.path}" if entry.path else "the model"


def _hooked(owner: Any, entry: Watched) -> Iterator[Problem]:
    registered = [n for n in HOOKS if entry.hooks is not None and vars(owner)[n]]
    if registered and sum(len(vars(owner)[n]) for n in registered) > (entry.hooks or 0):
        kind = registered[0].strip("_").removesuffix("s").replace("_", " ")
        what = f"has a {kind} since the conversion, which does not run: the program does not call it (pruning and the old weight_norm register hooks)"
        yield Problem(_place(entry), what, UNHOOK.format(name=entry.path))


def _restructured(network: nn.Module, owner: Any, entry: Watched) -> Iterator[Problem]:
    names = tuple(vars(owner)["_modules"]) if entry.names is not None else None
    if names != entry.names:
        yield Problem(
            _place(entry), f"had the layers {_listed(entry.names)} at conversion and has {_listed(names)} now", AGAIN
        )
    for name, path in entry.children.items():
        where = f"{entry.path}.{name}".lstrip(".")
        if where != path and vars(owner)["_modules"].get(name) is not _module_at(network, path):
            yield Problem(
                f"layer {where}", f"was the layer {path} at conversion, under another name, and is another now", AGAIN
            )


def _module_at(network: nn.Module, path: str) -> Any:
    try:
        return network.get_submodule(path)
    except AttributeError:
        return MISSING


def _listed(names: Iterable[str] | None) -> str:
    return ", ".join(names or ()) or "none"


def _attribute_problem(network: nn.Module, entry: Watched, owner: Any, name: str, token: Any, now: Any) -> Problem:
    if name == MODE and isinstance(owner, nn.Module):
        what = f"is in {_MODES[bool(now)]} mode, and the program was made for its {_MODES[bool(token)]} mode"
        return Problem(_place(entry), what, OWN_MODE.format(name=entry.path))
    where = f"attribute {name} of {type(network).__name__}" if not entry.path else f"layer {entry.path}"
    subject = "" if not entry.path else f"{name} "
    if type(owner) is dict or isinstance(owner, (type, ModuleType)):
        kind = "attribute {} of class {}" if isinstance(owner, type) else "global {} of {}"
        of = owner.get("__name__", "a file") if isinstance(owner, dict) else owner.__name__
        where, subject = kind.format(name, of), ""
    elif not isinstance(owner, nn.Module):
        where = f"attribute {entry.path}.{name} of {type(network).__name__}"
        subject = ""
    return Problem(where, f"{subject}was {_shown(token)} at conversion and is {_shown(now)} now", BUFFER)


def _shown(token: Any) -> str:
    """A token, as its user would write the value."""
    if token is TENSOR:
        return "a tensor"
    if token is MISSING:
        return "missing"
    if isinstance(token, tuple) and token and isinstance(token[0], type):
        return _shown_contents(*token)
    if isinstance(token, Code):
        return token.name
    return getattr(token, "__name__", None) or repr(token)


def _shown_contents(kind: type[Any], *contents: Any) -> str:
    shown: Callable[[Any], str] = _shown
    if issubclass(kind, dict):
        text = f"{{{', '.join(f'{shown(k)}: {shown(v)}' for k, v in contents)}}}"
    elif issubclass(kind, (list, tuple)):
        inner = ", ".join(map(shown, contents))
        text = f"[{inner}]" if issubclass(kind, list) else f"({inner})"
    else:
        text = f"a {kind.__name__}" + (" of other contents" if contents else "")
    return text if len(text) <= 100 else f"{text[:97]}..."
