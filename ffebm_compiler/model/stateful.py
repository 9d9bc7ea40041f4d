"""Layers that keep a state between calls, which no file of graphs has a place for: counters, hidden states, lists.

What a layer writes into its buffers is none of it: those are results of its graph.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import OptionError, Problem
from ..passes import Owned, State
from .bound_model import BoundModel


def stateful_layers(model: BoundModel, before: State) -> dict[str, str]:
    """By the path of a layer that has changed its state since, what a graph of it would lose."""
    changed = sorted({o for owned in before.changes().values() for o in owned if not _is_registered(model, o)}, key=str)
    called = {str(n.target) for b in model.program.digital_blocks for n in b.graph.nodes if n.op == "call_module"}
    reasons = {o: f"its forward writes {o} between calls, and a graph keeps nothing" for o in changed}
    return {layer: reasons[o] for layer in called for o in reversed(changed) if o.path is None or o.is_within(layer)}


def refuse_stateful(model: BoundModel, before: State) -> None:
    """Raises where a layer has changed its state since.

    Raises:
        OptionError: with every such layer.
    """
    found = stateful_layers(model, before)
    if found:
        raise OptionError(_problems(found))


def _problems(found: dict[str, str]) -> Iterator[Problem]:
    for layer, reason in found.items():
        yield Problem(f"layer {layer}", f"has no ONNX form: {reason}", "Give the state as an argument, and return it.")


def _is_registered(model: BoundModel, owned: Owned) -> bool:
    if owned.path is None:
        return False
    module = model.network.get_submodule(owned.path)
    return owned.name in module._buffers or owned.name in module._parameters
