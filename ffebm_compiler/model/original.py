"""The user's model beside its conversion with ``copy=False``: the two share tensors, and nothing else.

What is set on the original after conversion (an attribute that its forward reads, another layer, the option of a layer) does not reach the
converted model, and is named at its next call. Hooks and modes are each one's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType

from torch import Tensor, nn

from ..errors import ChangedError, Problem
from ..passes.watching.attribute_tokens import MISSING, token_at
from ..passes.watching.paths import reach
from ..passes.watching.recorder import Watched
from ..passes.watching.tensors import is_same_tensor
from .changes import changes, tensor_problem
from .unchanged import Seen, seen

AGAIN = "Undo it, or convert the original again: with copy=False the two share their tensors, and nothing else."
_EACH_ONES_OWN = frozenset({*vars(nn.Module()), "inplace"})


@dataclass
class Original:
    """The original, for as long as it lives.

    Attributes:
        model: the original.
        watched: what the conversion read of it, and the options of the layers that the program calls.
        last: how it was last found unchanged.
    """

    model: weakref.ref[nn.Module]
    watched: tuple[Watched, ...]
    last: Seen | None = field(default=None, compare=False)

    @staticmethod
    def of(model: nn.Module, network: nn.Module, watched: Iterable[Watched]) -> Original:
        """The original of a converted model, whose network is ``network``."""
        return Original(weakref.ref(model), tuple(_entry(network, w) for w in watched))

    def require_unchanged(self, network: nn.Module) -> None:
        """Compares the original with what was converted.

        Raises:
            ChangedError: with everything that has changed.
        """
        model = self.model()
        if model is None or (self.last is not None and self.last.still()):
            return
        problems = [p for entry in self.watched for p in _differences(model, network, entry)]
        ChangedError.raise_if(replace(p, where=f"{p.where}, of the original", remedy=AGAIN) for p in problems)
        self.last = seen(model, self.watched, is_original=True)


def _entry(network: nn.Module, entry: Watched) -> Watched:
    """What is watched of the original: of a layer of torch's own that is called live, every option that it has."""
    values = entry.values
    if entry.tensor is not None:
        return entry
    if entry.kind is None and type(layer := network.get_submodule(entry.path)).__module__.startswith("torch.nn."):
        values = {**{n: token_at(layer, n) for n in vars(layer) if not n.startswith("_")}, **values}
        entry = replace(entry, kind=type(layer))
    return replace(entry, values={n: v for n, v in values.items() if n not in _EACH_ONES_OWN}, hooks=None)


def _differences(model: nn.Module, network: nn.Module, entry: Watched) -> Iterator[Problem]:
    """What has changed of one entry, unless it is so on both sides; and a layer that no more shares its tensors."""
    theirs, ours = _at(model, entry.path), _at(network, entry.path)
    if theirs is ours and isinstance(ours, (dict, type, ModuleType)):  # a file or a class, which has no copy
        return
    if entry.tensor is not None:
        if not is_same_tensor(theirs, ours) and isinstance(ours, Tensor):  # each has its own generators
            yield tensor_problem(model, entry, theirs)
        return
    alike = isinstance(ours, nn.Module) and isinstance(theirs, nn.Module) and type(ours) is type(theirs)
    if alike:
        entry = replace(
            entry, values={n: v for n, v in entry.values.items() if token_at(theirs, n) != token_at(ours, n)}
        )
        if vars(ours)["_parameters"] is not vars(theirs)["_parameters"]:
            yield Problem(f"layer {entry.path}", "was replaced, and has other tensors than the converted model", AGAIN)
    yield from changes(model, entry)


def _at(root: nn.Module, path: str) -> object:
    try:
        return reach(root, path)
    except AttributeError:
        return MISSING
