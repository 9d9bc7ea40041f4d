"""Stage 1: a traced graph, and how the model that it was traced from is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

WHOLE = ""
"""The path of the model itself."""


@dataclass(frozen=True)
class Signature:
    """How the model is called: names of its arguments, and how a call and a result are taken apart.

    Attributes:
        inputs: names of the graph's placeholders.
        bind: ``(args, kwargs) -> values`` of the placeholders, in order.
        pack: the model's result from the graph's output.
    """

    inputs: tuple[str, ...]
    bind: Callable[[tuple[Any, ...], Mapping[str, Any]], tuple[Any, ...]]
    pack: Callable[[Any], Any]


@dataclass(frozen=True)
class Traced:
    """Stage 1.

    Attributes:
        network: the copy of the user's model that the graph addresses.
        graph: the traced graph; ``call_module`` and ``get_attr`` targets are paths in ``network``.
        signature: how it is called.
        tracer: ``"torch.fx"`` or ``"torch.export"``, or that nothing was traced.
        training: the mode that was traced.
        whole: by path, why a module is called as a whole though it could be traced.
    """

    network: nn.Module
    graph: fx.Graph
    signature: Signature
    tracer: str
    training: bool = False
    whole: Mapping[str, str] = field(default_factory=dict)
