"""Which layer is the first whose value differs between a model and its compiled program?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..ir import Origin
from ..solve import BoundBlock
from ..train.without_feedback import rounding_of
from .bound_model import BoundModel
from .comparison import difference, tolerance_of
from .nested_values import flattened

LayerValues = dict[str, Tensor]
"""The value of each layer's call, by the call's label."""


def first_difference(model: BoundModel, ours: LayerValues, theirs: LayerValues) -> tuple[Origin, float] | None:
    """The first call of the program whose value differs from the one in the model, and by how much of its largest entry."""
    origins = {o.label: o for o in model.program.origins.values()}
    for label, mine in ours.items():
        other = theirs.get(label)
        if other is None or not other.is_floating_point() or label not in origins:
            continue
        far = difference(mine, other)
        if not far <= tolerance_of(rounding_of(other)):
            return origins[label], far
    return None


@contextmanager
def layers_heard(network: nn.Module) -> Iterator[LayerValues]:
    """The values of all modules' calls, as they are made; a module that is called again is numbered as the program numbers it."""
    heard: LayerValues = {}
    calls: Counter[str] = Counter()

    def listener(path: str) -> Any:
        def hear(module: nn.Module, args: Any, result: Any) -> None:
            calls[path] += 1
            note(heard, path if calls[path] == 1 else f"{path}@{calls[path]}", result)

        return hear

    handles = [m.register_forward_hook(listener(path)) for path, m in network.named_modules() if path]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def note(values: LayerValues, label: str, result: Any) -> None:
    """Keeps the first tensor of a result."""
    found = next(iter(flattened(result).values()), None)
    if found is not None:
        values[label] = found.detach().clone()


def note_block(values: LayerValues, bound: BoundBlock) -> None:
    """Keeps the value of every layer in a block, without feedback."""
    with torch.no_grad():
        states: dict[str, Tensor] = {}
        for state in bound.block.states:
            known = {**bound.inputs, **states}
            for term in state.drive.terms:
                known[term.name] = term.evaluate(known, bound.weights)
                note(values, term.origin.label, known[term.name])
            states[state.name] = state.potential.activation(known[state.drive.output])
            note(values, state.origin.label, states[state.name])
